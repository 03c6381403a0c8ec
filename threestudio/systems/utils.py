"""Optimizers and schedulers from their config blocks."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any, Optional

import torch
import torch.nn as nn
from torch.optim import lr_scheduler

from threestudio.systems.optimizers import Adan
from threestudio.utils.checkpoints import to_plain
from threestudio.utils.errors import ConfigError
from threestudio.utils.overrides import did_you_mean


def get_scheduler(name: str) -> type:
    """Return a class of `torch.optim.lr_scheduler`."""
    scheduler = getattr(lr_scheduler, name, None)
    if not inspect.isclass(scheduler):
        known = [n for n in dir(lr_scheduler) if inspect.isclass(getattr(lr_scheduler, n))]
        raise ConfigError(f"Unknown scheduler '{name}'.{did_you_mean(name, known)}")
    return scheduler


def getattr_recursive(module: Any, path: str) -> Any:
    """Follow a dotted path of attributes."""
    for name in path.split("."):
        module = getattr(module, name)
    return module


def get_parameters(model: nn.Module, path: str) -> list[nn.Parameter]:
    """List the parameters at a dotted path of `model`; what has none gives an empty list."""
    try:
        part = getattr_recursive(model, path)
    except AttributeError as error:
        known = [name for name, _ in model.named_modules() if name]
        close = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
        raise ConfigError(
            f"`system.optimizer.params` names '{path}', but the system has no such part. "
            f"It has {', '.join(close or [n for n, _ in model.named_children()])}."
        ) from error
    if isinstance(part, nn.Module):
        return list(part.parameters())
    return [part] if isinstance(part, nn.Parameter) else []


def optimizer_class(name: Any) -> type:
    """Return a class of `torch.optim`, our `Adan`, or apex's `FusedAdam`."""
    if name == "Adan":
        return Adan
    if name == "FusedAdam":
        return _fused_adam()
    found = getattr(torch.optim, str(name), None)
    if not inspect.isclass(found):
        known = [n for n in dir(torch.optim) if inspect.isclass(getattr(torch.optim, n))] + ["Adan"]
        raise ConfigError(f"Unknown optimizer '{name}'.{did_you_mean(str(name), known)}")
    return found


def _fused_adam() -> type:
    try:
        from apex.optimizers import FusedAdam
    except ImportError as error:
        raise ConfigError(
            "FusedAdam needs NVIDIA's apex, which is not installed (it is built from its "
            "repository, github.com/NVIDIA/apex). Adam or AdamW do the same."
        ) from error
    return FusedAdam


def optimizer_faults(config: Any) -> list[str]:
    """List what is wrong with an `optimizer` block, before there is a model."""
    config = to_plain(config) or {}
    if not config:
        return []
    try:
        known = inspect.signature(optimizer_class(config.get("name"))).parameters
    except ConfigError as error:
        return [f"system.optimizer.name: {error}"]
    faults = [
        f"system.optimizer has no key `{key}`.{did_you_mean(key, ('name', 'args', 'params'))}"
        for key in config
        if key not in ("name", "args", "params")
    ]
    groups = {"args": config.get("args")}
    params = config.get("params") or {}
    if not isinstance(params, dict):
        return [*faults, "system.optimizer.params needs a mapping such as {geometry: {lr: 0.01}}."]
    groups |= {f"params.{key}": value for key, value in params.items()}
    for where, values in groups.items():
        faults += _group_faults(config["name"], f"system.optimizer.{where}", values, known)
    return faults or _trial_faults(config, groups)


def _group_faults(name: str, where: str, values: Any, known: Mapping[str, Any]) -> list[str]:
    if not isinstance(values, dict):
        return [f"{where} needs a mapping such as {{lr: 0.01}}."]
    return [
        f"{where}: {name} has no argument `{key}`.{did_you_mean(key, known)}"
        for key in values
        if key not in known or key == "params"
    ]


def _trial_faults(config: dict[str, Any], groups: dict[str, dict[str, Any]]) -> list[str]:
    """Build the optimizer of one number, to hear what it has against its arguments."""
    for where, values in groups.items():
        try:
            parameter = nn.Parameter(torch.zeros(1))
            optimizer_class(config["name"])([parameter], **{**config["args"], **values})
        except (TypeError, ValueError, LookupError) as error:
            return [f"system.optimizer.{where}: {config['name']} refuses {values}: {error}."]
    return []


def parse_optimizer(config: Any, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of an `optimizer` block.

    With `params`, one group per entry (a dotted path from the system), and only these are
    optimised; without, everything. Arguments become plain numbers and lists, so that checkpoints
    hold nothing else.
    """
    config = to_plain(config)
    if config.get("params"):
        groups = [
            {"params": get_parameters(model, path), "name": path, **args}
            for path, args in config["params"].items()
        ]
    else:
        groups = [{"params": list(model.parameters()), "name": "all"}]
    if not any(group["params"] for group in groups):
        raise ConfigError("`system.optimizer.params` names only parts without parameters.")
    return optimizer_class(config["name"])(groups, **config["args"])


def parse_scheduler_to_instance(config: Any, optimizer: torch.optim.Optimizer) -> Any:
    """Build a learning rate scheduler; `SequentialLR` and `ChainedScheduler` hold `schedulers`."""
    config = to_plain(config)
    name = {"Sequential": "SequentialLR"}.get(config["name"], config["name"])
    if name in ("SequentialLR", "ChainedScheduler"):
        parts = [parse_scheduler_to_instance(part, optimizer) for part in config["schedulers"]]
        if name == "ChainedScheduler":
            return lr_scheduler.ChainedScheduler(parts)
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=config["milestones"])
    return get_scheduler(name)(optimizer, **(config.get("args") or {}))


def parse_scheduler(config: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Build Lightning's description of a scheduler: it steps per `"epoch"` or per `"step"`."""
    interval: Optional[str] = config.get("interval", "epoch")
    if interval not in ("epoch", "step"):
        raise ConfigError(f"scheduler.interval is '{interval}', allowed are 'epoch' and 'step'.")
    return {"scheduler": parse_scheduler_to_instance(config, optimizer), "interval": interval}
