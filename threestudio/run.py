"""One run in this process: configuration, components, trainer, and what a run folder holds."""

import importlib.metadata
import logging
import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from threestudio.extensions import load_extensions
from threestudio.registry import find
from threestudio.systems.base import BaseSystem
from threestudio.utils.callbacks import (
    AtomicCheckpointIO,
    CodeSnapshotCallback,
    ConfigSnapshotCallback,
    CustomProgressBar,
    RollingCheckpoint,
)
from threestudio.utils.checkpoints import read_checkpoint, to_plain
from threestudio.utils.config import ExperimentConfig, merge_configs, parse_structured
from threestudio.utils.config_check import check_config
from threestudio.utils.errors import CheckpointError, ConfigError
from threestudio.utils.logging import get_rank, info
from threestudio.utils.misc import set_cpu_only
from threestudio.utils.random import set_run_seed

MODES = ("train", "validate", "test")

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "diffusers",
    "transformers",
    "numpy",
    "omegaconf",
    "safetensors",
)
"""What `versions.txt` tells about, beside the runtime itself."""


@dataclass(frozen=True)
class RunResult:
    """What a finished run leaves in memory and on disk."""

    system: BaseSystem
    trial_dir: str


def run(
    config_path: str,
    overrides: Sequence[str] = (),
    mode: str = "train",
    command: Optional[str] = None,
) -> RunResult:
    """Train (and then test), validate or test what a YAML describes.

    Args:
        config_path: The YAML.
        overrides: `key=value` settings, the last ones win.
        mode: `"train"`, `"validate"` or `"test"`.
        command: Command line to note in `cmd.txt`.

    Raises:
        UserError: For everything that is the user's to fix, mostly before any long work.
    """
    if mode not in MODES:
        raise ConfigError(f"Unknown mode '{mode}'. Use {', '.join(MODES)}.")
    load_extensions()
    num_gpus = torch.cuda.device_count()
    merged = merge_configs(config_path, cli_args=list(overrides), n_gpus=max(num_gpus, 1))
    check_config(merged)
    checkpoint = read_checkpoint(merged.resume) if merged.get("resume") else None
    cfg = parse_structured(ExperimentConfig, merged)
    try:
        datamodule, system = _build(cfg, checkpoint)
        with warnings.catch_warnings():
            _silence_lightning()
            _execute(cfg, datamodule, system, checkpoint, mode, config_path, command)
    except BaseException:
        _remove_if_empty(cfg.trial_dir)
        raise
    return RunResult(system=system, trial_dir=cfg.trial_dir)


def _build(cfg: Any, checkpoint: Optional[dict[str, Any]]) -> tuple[Any, BaseSystem]:
    """Seed the run and construct its two components."""
    set_run_seed(cfg.seed)
    set_cpu_only(cfg.trainer.get("accelerator") == "cpu")
    pl.seed_everything(cfg.seed + get_rank(), workers=True, verbose=False)
    datamodule = find(cfg.data_type)(cfg.data)
    system = find(cfg.system_type)(cfg.system, resumed=checkpoint is not None)
    system.set_save_dir(os.path.join(cfg.trial_dir, "save"))
    if checkpoint is not None:
        _check_fit(system, checkpoint, cfg.resume)
        accumulated = cfg.trainer.get("accumulate_grad_batches") or 1
        _start_data_at(datamodule, checkpoint["global_step"] * accumulated)
    return datamodule, system


def _check_fit(system: BaseSystem, checkpoint: dict[str, Any], path: str) -> None:
    """Compare names and shapes, for one message in place of Lightning's traceback."""
    own = {name: tuple(value.shape) for name, value in system.state_dict().items()}
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    differing = sorted(n for n in own.keys() | saved.keys() if own.get(n) != saved.get(n))
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"Checkpoint '{path}' does not fit this configuration: {len(differing)} entries "
            f"differ, e.g. '{name}' is {saved.get(name, 'missing')} in the file and "
            f"{own.get(name, 'missing')} here. Use `configs/parsed.yaml` of the checkpoint's run."
        )


def _start_data_at(datamodule: Any, batches: int) -> None:
    """Let the training data begin after `batches` batches.

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
    datamodule: Any,
    system: BaseSystem,
    checkpoint: Optional[dict[str, Any]],
    mode: str,
    config_path: str,
    command: Optional[str],
) -> None:
    if mode == "train":
        _write_notes(cfg, config_path, command)
        trainer = _trainer(
            cfg, callbacks=_callbacks(cfg, config_path), logger=_loggers(cfg) + system.get_loggers()
        )
        trainer.fit(system, datamodule=datamodule, ckpt_path=cfg.resume)
        trainer.test(system, datamodule=datamodule, verbose=False)
        return
    trainer = _trainer(cfg, logger=False, enable_checkpointing=False)
    if checkpoint is not None:
        system.set_resume_status(checkpoint["epoch"], checkpoint["global_step"])
    getattr(trainer, mode)(system, datamodule=datamodule, ckpt_path=cfg.resume, verbose=False)


def _trainer(cfg: Any, **kwargs: Any) -> pl.Trainer:
    """Build the trainer: the YAML's settings over ours."""
    on_gpu = torch.cuda.is_available()
    settings: dict[str, Any] = {
        "accelerator": "gpu" if on_gpu else "cpu",
        "devices": -1 if on_gpu else 1,
        "inference_mode": False,  # analytic normals need autograd in evaluation too
        "enable_model_summary": False,
        "plugins": [AtomicCheckpointIO()],
    }
    settings |= to_plain(cfg.trainer)
    if settings["accelerator"] == "cpu" and str(settings.get("precision")) in ("16", "16-mixed"):
        info("The CPU has no 16-bit training: `trainer.precision` is 32-true in this run.")
        settings["precision"] = "32-true"
    return pl.Trainer(**{**settings, **kwargs})


def _callbacks(cfg: Any, config_path: str) -> list[pl.Callback]:
    folder = os.path.join(cfg.trial_dir, "ckpts")
    settings = to_plain(cfg.checkpoint)
    rolling = settings.pop("rolling_every_n_steps", 250)
    settings.pop("save_last", None)  # the rolling checkpoint is the last one
    callbacks = [
        ModelCheckpoint(dirpath=folder, **{"enable_version_counter": False, **settings}),
        RollingCheckpoint(folder, rolling),
        LearningRateMonitor(logging_interval="step"),
        CodeSnapshotCallback(os.path.join(cfg.trial_dir, "code"), use_version=False),
        ConfigSnapshotCallback(
            config_path, cfg, os.path.join(cfg.trial_dir, "configs"), use_version=False
        ),
    ]
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(CustomProgressBar(refresh_rate=1))
    return callbacks


def _loggers(cfg: Any) -> list[Any]:
    return [
        TensorBoardLogger(cfg.trial_dir, name="tb_logs"),
        CSVLogger(cfg.trial_dir, name="csv_logs"),
    ]


def _write_notes(cfg: Any, config_path: str, command: Optional[str]) -> None:
    """Write the command and the versions of what computed the result."""
    if get_rank() != 0:
        return
    lines = [f"threestudio {find_version()}", f"python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} -")
    lines += [
        f"platform {platform.platform()}",
        f"device {torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu'}",
        f"threads {torch.get_num_threads()}",
    ]
    notes = {"versions.txt": "\n".join(lines), "cmd.txt": command or f"run({config_path!r})"}
    for name, text in notes.items():
        with open(os.path.join(cfg.trial_dir, name), "w", encoding="utf-8") as file:
            file.write(text + "\n")


def find_version() -> str:
    """Return the runtime's version."""
    import threestudio

    return threestudio.__version__


def _silence_lightning() -> None:
    """Hide advice that does not fit: the data is endless, made in this process, and unshuffled."""
    if logging.getLogger("pytorch_lightning").getEffectiveLevel() > logging.DEBUG:
        for chatter in ("utilities.rank_zero", "trainer"):
            logging.getLogger(f"pytorch_lightning.{chatter}").setLevel(logging.WARNING)
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*your dataloader is not resumable.*",
        ".*ended before the epoch ended.*",
        ".*`isinstance\\(treespec, LeafSpec\\)`.*",
        ".*GPU available but not used.*",
        ".*were in eval mode.*|.*in eval mode at the start of training.*",
        ".*dirpath has changed from.*",
        ".*callbacks used to create the checkpoint.*",
    ):
        warnings.filterwarnings("ignore", message=text)


def _remove_if_empty(folder: str) -> None:
    """Leave no empty run folder behind when nothing was started."""
    for path in (folder, os.path.dirname(folder)):
        try:
            os.rmdir(path)
        except OSError:
            return
