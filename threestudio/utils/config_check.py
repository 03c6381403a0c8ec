"""All faults of a configuration in one report, before anything is built.

The walk follows a convention: a block `x` beside a key `x_type` belongs to the component registered
under that type. A component may say more about its block:

- `Config.__post_init__` raises `ValueError` for values that do not fit together;
- `check(cfg) -> list[str]`, static or class method, lists faults of the parsed block;
- `config_faults(cfg: dict) -> list[str]`, class method, takes over for blocks whose keys are not
  the fields of one `Config` (a guidance that hands flat keys to its parts).
"""

import dataclasses
import inspect
from typing import Any, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from threestudio.registry import UnknownModuleError, find

from .config import ExperimentConfig, as_node, config_to_primitive, field_names, parse_structured
from .errors import ConfigError
from .overrides import did_you_mean

CHECKPOINT_KEYS = ("rolling_every_n_steps",)
"""Our own keys in the `checkpoint` block."""


def check_config(cfg: Any) -> None:
    """Check a merged configuration (see `config.merge_configs`).

    Raises:
        ConfigError: One error with every fault that was found.
    """
    faults = config_faults(config_to_primitive(cfg))
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        listed = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(faults, start=1))
        raise ConfigError(f"The configuration has {len(faults)} faults:\n{listed}")


def config_faults(cfg: dict[str, Any]) -> list[str]:
    """List the faults of a whole configuration."""
    top = {key: value for key, value in cfg.items() if key not in ("data", "system")}
    faults = _field_faults(ExperimentConfig, top, "", also=("data", "system"))
    if not cfg.get("tag") and cfg.get("use_timestamp") is False:
        faults.append("`tag` is empty and `use_timestamp` is false: set one, the run needs a name.")
    for part in ("data", "system"):
        faults += _component_faults(part, cfg.get(f"{part}_type") or "", cfg.get(part))
    return faults + _lightning_faults(cfg)


def _component_faults(path: str, type_name: Any, block: Any) -> list[str]:
    """List the faults of the block at `path`, and of the blocks in it."""
    if not type_name:
        return [f"{path}_type is not set. It names a registered component."]
    try:
        component = find(str(type_name))
    except (UnknownModuleError, ConfigError) as error:
        return [f"{path}_type: {error}"]
    block = {} if block is None else block
    if not isinstance(block, dict):
        return [f"{path} is {block!r}, but needs a mapping of keys to values."]
    if hasattr(component, "config_faults"):
        return [_with_path(path, fault) for fault in component.config_faults(block)]
    fields = getattr(component, "Config", None)
    if fields is None:
        return []
    faults = _field_faults(fields, block, path)
    return (faults or _value_faults(component, block, path)) + _child_faults(fields, block, path)


def _child_faults(fields: type, block: dict[str, Any], path: str) -> list[str]:
    faults = []
    names = field_names(fields)
    for child in (name.removesuffix("_type") for name in names if name.endswith("_type")):
        # A default type is checked where it is used: the part may not be built at all.
        if child in names and block.get(f"{child}_type"):
            where = f"{path}.{child}"
            faults += _component_faults(where, block[f"{child}_type"], block.get(child))
    return faults


def _value_faults(component: type, block: dict[str, Any], path: str) -> list[str]:
    """List what the component itself says about a block whose keys and types are right."""
    try:
        parsed = parse_structured(component.Config, block)
        check = getattr(component, "check", None)
        faults = check(parsed) if callable(check) else []
    except (ValueError, TypeError) as error:
        faults = str(error).splitlines()
    return [_with_path(path, fault) for fault in faults]


def _field_faults(
    fields: type, block: dict[str, Any], path: str, also: tuple[str, ...] = ()
) -> list[str]:
    """List unknown keys and values of a wrong type."""
    prefix = f"{path}." if path else ""
    known = field_names(fields)
    types = {f.name: f.type for f in dataclasses.fields(fields)}
    faults = []
    defaults = OmegaConf.structured(fields)
    for key, value in block.items():
        if key not in known:
            candidates = [*known, *also]
            hint = did_you_mean(key, candidates) or f" Known are: {', '.join(sorted(candidates))}."
            faults.append(f"{prefix}{key} is not a known key.{hint}")
            continue
        fault = _type_fault(defaults, key, value, types[key])
        if fault:
            faults.append(f"{prefix}{key} {fault}")
    return faults


def _type_fault(defaults: Any, key: str, value: Any, declared: Any) -> str:
    """Say what is wrong with one value, or nothing."""
    if isinstance(value, (list, tuple)) and _takes_number(declared):
        if all(_is_number(item) for item in value):
            return ""  # a schedule, or one value for each stage
        return f"is {list(value)!r}, but needs a number or a list of numbers."
    members = get_args(declared)
    if get_origin(declared) is tuple and Ellipsis not in members:
        if not isinstance(value, (list, tuple)) or len(value) != len(members):
            return f"is {value!r}, but needs a list of {len(members)} values."
    try:
        defaults[key] = as_node(value, declared)
    except OmegaConfBaseException:
        return f"is {value!r}, but needs {_type_name(declared)}."
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _takes_number(declared: Any) -> bool:
    members = get_args(declared) if get_origin(declared) is Union else (declared,)
    return float in members or int in members


def _type_name(declared: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    names |= {dict: "a mapping of keys to values", type(None): "null"}
    members = get_args(declared) if get_origin(declared) is Union else (declared,)
    return " or ".join(names.get(member, str(member).replace("typing.", "")) for member in members)


def _with_path(path: str, fault: str) -> str:
    return fault if path.split(".")[0] in fault.split(":")[0] else f"{path}: {fault}"


def _lightning_faults(cfg: dict[str, Any]) -> list[str]:
    """List keys that Lightning's `Trainer` and `ModelCheckpoint` do not know."""
    from pytorch_lightning import Trainer
    from pytorch_lightning.callbacks import ModelCheckpoint

    faults = []
    for block, cls, more in (
        ("trainer", Trainer, ()),
        ("checkpoint", ModelCheckpoint, CHECKPOINT_KEYS),
    ):
        known = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        known += more
        values = cfg.get(block) or {}
        faults += [
            f"{block}.{key} is not a known key.{did_you_mean(key, known)}"
            for key in (values if isinstance(values, dict) else {})
            if key not in known
        ]
    rolling = (cfg.get("checkpoint") or {}).get("rolling_every_n_steps", 1)
    if not isinstance(rolling, int) or isinstance(rolling, bool) or rolling < 1:
        faults.append(
            f"checkpoint.rolling_every_n_steps is {rolling!r}, but needs a whole number of at least 1."
        )
    steps = (cfg.get("trainer") or {}).get("max_steps", -1)
    if not isinstance(steps, int) or isinstance(steps, bool):
        faults.append(f"trainer.max_steps is {steps!r}, but needs a whole number.")
    return faults
