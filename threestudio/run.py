"""One run in this process: configuration, components, training, and looking at the result."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import pytorch_lightning as pl
import torch

from threestudio.extensions import load_extensions
from threestudio.notes import write_notes
from threestudio.registry import find
from threestudio.systems.base import BaseSystem
from threestudio.trainer import (
    device_settings,
    make_trainer,
    make_training_trainer,
    silence_lightning,
    uses_several_gpus,
)
from threestudio.utils.callbacks import StopOnSignal
from threestudio.utils.checkpoints import read_checkpoint
from threestudio.utils.config import ExperimentConfig, merge_configs, parse_structured
from threestudio.utils.config_check import check_config
from threestudio.utils.errors import CheckpointError, ConfigError
from threestudio.utils.logging import get_rank, info, warn
from threestudio.utils.misc import set_cpu_only
from threestudio.utils.random import set_run_seed

MODES = ("train", "validate", "test", "export")


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves in memory and on disk."""

    system: BaseSystem
    trial_dir: str
    interrupted: bool = False
    """Whether a signal ended the training before its last step."""
    terminated: bool = False
    """Whether that signal was SIGTERM, after which nothing else was done."""


def run(
    config_path: Union[str, Sequence[str]],
    overrides: Sequence[str] = (),
    mode: str = "train",
    command: Optional[str] = None,
) -> RunResult:
    """Train (and then test), validate, test or export what a YAML describes.

    Args:
        config_path: The YAML, or several that are merged; settings of later ones win.
        overrides: `key=value` settings, the last ones win.
        mode: `"train"`, `"validate"`, `"test"` or `"export"`.
        command: Command line to note in `cmd.txt`.

    Raises:
        UserError: For everything that is the user's to fix, mostly before any long work.
    """
    if mode not in MODES:
        raise ConfigError(f"Unknown mode '{mode}'. Use {', '.join(MODES)}.")
    paths = [config_path] if isinstance(config_path, str) else list(config_path)
    load_extensions()
    num_gpus = max(torch.cuda.device_count(), 1)
    merged = merge_configs(*paths, cli_args=list(overrides), n_gpus=num_gpus)
    check_config(merged)
    if not uses_several_gpus(merged.get("trainer") or {}):
        merged.n_gpus = 1
    checkpoint = read_checkpoint(merged.resume) if merged.get("resume") else None
    if checkpoint is not None and mode == "train":
        _compare_lengths(merged, checkpoint["global_step"])
    cfg = parse_structured(ExperimentConfig, merged)
    if mode != "train" and checkpoint is None and not cfg.system.get("weights"):
        _warn_untrained(cfg.trial_dir)
    try:
        with warnings.catch_warnings():
            silence_lightning()
            trainer = (
                make_training_trainer(cfg, paths)
                if mode == "train"
                else make_trainer(cfg, logger=False, enable_checkpointing=False)
            )
            datamodule, system = _build(cfg, checkpoint)
            command = command or f"run({config_path!r})"
            _execute(cfg, trainer, datamodule, system, checkpoint, mode, command)
    except BaseException:
        _remove_if_empty(cfg.trial_dir)
        raise
    stops = [callback for callback in trainer.callbacks if isinstance(callback, StopOnSignal)]
    return RunResult(
        system=system,
        trial_dir=cfg.trial_dir,
        interrupted=any(stop.interrupted or stop.terminated for stop in stops),
        terminated=any(stop.terminated for stop in stops),
    )


def _compare_lengths(cfg: Any, done: int) -> None:
    """Say so when a run of `done` steps has no more to do, or is continued to another length than
    its guidance plans for.

    A run's `parsed.yaml` has the number that `${trainer.max_steps}` stood for.
    """
    steps = (cfg.get("trainer") or {}).get("max_steps")
    if steps is not None and 0 <= steps <= done:
        warn(
            f"Nothing is left to train: '{cfg.resume}' is already at step {done} of {steps}. Give "
            "trainer.max_steps=... to go on."
        )
    guidance = (cfg.get("system") or {}).get("guidance") or {}
    planned = guidance.get("trainer_max_steps")
    if steps is not None and planned is not None and planned != steps:
        warn(
            f"`trainer.max_steps` is {steps}, but `system.guidance.trainer_max_steps` is {planned}:"
            f" the guidance plans its reward for {planned} steps, which is how the checkpoint was "
            "made. To plan for the new length give both: "
            f"trainer.max_steps={steps} system.guidance.trainer_max_steps={steps}"
        )


def _warn_untrained(trial_dir: str) -> None:
    """Say that what is looked at was not trained, and how to load what was."""
    last = os.path.join(trial_dir, "ckpts", "last.ckpt")
    path = last if os.path.isfile(last) else "<run>/ckpts/last.ckpt"
    warn(
        "No checkpoint is given: this is what a training would start from. To look at a trained "
        f"result add resume={path}"
    )


def _build(cfg: Any, checkpoint: Optional[dict[str, Any]]) -> tuple[Any, BaseSystem]:
    """Seed the run and construct its two components."""
    set_run_seed(cfg.seed)
    set_cpu_only(device_settings(cfg.trainer)["accelerator"] == "cpu")
    pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=False)
    datamodule = find(cfg.data_type)(cfg.data)
    system = find(cfg.system_type)(cfg.system, resumed=checkpoint is not None)
    system.set_save_dir(os.path.join(cfg.trial_dir, "save"))
    if checkpoint is not None:
        system.on_load_checkpoint(checkpoint)  # some parts have to make room for what is in it
        _check_fit(system, checkpoint, cfg.resume)
        _start_data_at(datamodule, checkpoint["global_step"])
    return datamodule, system


def _check_fit(system: BaseSystem, checkpoint: dict[str, Any], path: str) -> None:
    """Compare names and shapes, for one message in place of Lightning's traceback."""
    own, saved = (
        {name: tuple(value.shape) for name, value in state.items() if torch.is_tensor(value)}
        for state in (system.state_dict(), checkpoint["state_dict"])
    )
    differing = sorted(n for n in own.keys() | saved.keys() if own.get(n) != saved.get(n))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"Checkpoint '{path}' does not fit this configuration: {len(differing)} entries "
            f"differ, e.g. '{name}' is {saved.get(name, 'missing')} in the file and "
            f"{own.get(name, 'missing')} here. Use `configs/parsed.yaml` of the checkpoint's run."
        )


def _start_data_at(datamodule: Any, batches: int) -> None:
    """Let the training data begin after `batches` batches: a dataset with `set_step` is told.

    Lightning fetches the first batch as soon as it has the loader, before any hook of the training
    runs; so the place is right behind `train_dataloader`.
    """
    make_loader = datamodule.train_dataloader

    def train_dataloader() -> Any:
        loader = make_loader()
        if hasattr(loader.dataset, "set_step"):
            loader.dataset.set_step(batches)
        return loader

    datamodule.train_dataloader = train_dataloader


def _execute(
    cfg: Any,
    trainer: pl.Trainer,
    datamodule: Any,
    system: BaseSystem,
    checkpoint: Optional[dict[str, Any]],
    mode: str,
    command: str,
) -> None:
    if mode == "train":
        info(f"Results are saved to {cfg.trial_dir}")
        trainer.loggers = [*trainer.loggers, *system.get_loggers()]
        write_notes(cfg.trial_dir, command, resumed=checkpoint is not None)
        trainer.fit(system, datamodule=datamodule, ckpt_path=cfg.resume)
        if not any(getattr(callback, "terminated", False) for callback in trainer.callbacks):
            trainer.test(system, datamodule=datamodule, verbose=False)
        return
    if checkpoint is not None:
        system.set_resume_status(checkpoint["epoch"], checkpoint["global_step"])
    folder = system.get_save_dir()
    if mode == "export":
        trainer.predict(
            system, datamodule=datamodule, ckpt_path=cfg.resume, return_predictions=False
        )
        folder = os.path.join(folder, f"it{system.true_global_step}-export")
    else:
        getattr(trainer, mode)(system, datamodule=datamodule, ckpt_path=cfg.resume, verbose=False)
    info(f"Saved in {folder}")


def _remove_if_empty(folder: str) -> None:
    """Leave no empty run folder behind when nothing was started."""
    for path in (folder, os.path.dirname(folder)):
        try:
            os.rmdir(path)
        except OSError:
            return
