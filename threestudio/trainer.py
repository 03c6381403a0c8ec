"""Lightning's trainer as a run needs it: devices, callbacks, loggers, and quiet."""

import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from threestudio.utils.callbacks import (
    AtomicCheckpointIO,
    CodeSnapshotCallback,
    ConfigSnapshotCallback,
    CustomProgressBar,
    RollingCheckpoint,
    StopOnSignal,
)
from threestudio.utils.checkpoints import to_plain
from threestudio.utils.errors import ConfigError
from threestudio.utils.logging import info


def device_settings(trainer: Any) -> dict[str, Any]:
    """Complete `accelerator` and `devices` where a `trainer` block says nothing.

    That is all visible GPUs, or one process on the CPU.
    """
    accelerator = trainer.get("accelerator") or "auto"
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    devices = trainer.get("devices")
    if devices is None:
        devices = 1 if accelerator == "cpu" else -1
    return {"accelerator": accelerator, "devices": to_plain(devices)}


def uses_several_gpus(trainer: Any) -> bool:
    """Tell whether a `trainer` block asks for more than one of the visible GPUs."""
    settings = device_settings(trainer)
    if settings["accelerator"] == "cpu" or torch.cuda.device_count() < 2:
        return False
    return settings["devices"] not in (1, "1") and not (
        isinstance(settings["devices"], list) and len(settings["devices"]) == 1
    )


def trainer_settings(trainer: Any) -> dict[str, Any]:
    """Complete a `trainer` block: the YAML's settings over ours."""
    settings: dict[str, Any] = {
        "inference_mode": False,  # analytic normals need autograd in evaluation too
        "enable_model_summary": False,
        "plugins": [AtomicCheckpointIO()],
    }
    settings |= {**to_plain(trainer), **device_settings(trainer)}
    if settings["accelerator"] == "cpu" and str(settings.get("precision")) in ("16", "16-mixed"):
        info("The CPU has no 16-bit training: `trainer.precision` is 32-true in this run.")
        settings["precision"] = "32-true"
    return settings


def make_trainer(cfg: Any, **kwargs: Any) -> pl.Trainer:
    """Build the trainer of an `ExperimentConfig`.

    Raises:
        ConfigError: For settings that Lightning refuses.
    """
    settings = {**trainer_settings(cfg.trainer), **kwargs}
    try:
        return pl.Trainer(**settings)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"The `trainer` block cannot be used: {error}") from error


def make_training_trainer(cfg: Any, config_paths: list[str]) -> pl.Trainer:
    """Build the trainer of a training run: with callbacks, loggers and checkpoints."""
    loggers = [
        TensorBoardLogger(cfg.trial_dir, name="tb_logs"),
        CSVLogger(cfg.trial_dir, name="csv_logs"),
    ]
    return make_trainer(cfg, callbacks=_callbacks(cfg, config_paths), logger=loggers)


def _callbacks(cfg: Any, config_paths: list[str]) -> list[pl.Callback]:
    folder = os.path.join(cfg.trial_dir, "ckpts")
    settings = to_plain(cfg.checkpoint)
    rolling = settings.pop("rolling_every_n_steps", 250)
    settings.pop("save_last", None)  # the rolling checkpoint is the last one
    callbacks = [
        ModelCheckpoint(dirpath=folder, **{"enable_version_counter": False, **settings}),
        StopOnSignal(),  # before the rolling checkpoint, which saves when it stops
        RollingCheckpoint(folder, rolling),
        LearningRateMonitor(logging_interval="step"),
        CodeSnapshotCallback(os.path.join(cfg.trial_dir, "code"), use_version=False),
        ConfigSnapshotCallback(
            config_paths, cfg, os.path.join(cfg.trial_dir, "configs"), use_version=False
        ),
    ]
    if cfg.trainer.get("enable_progress_bar", True):
        callbacks.append(CustomProgressBar(refresh_rate=1))
    return callbacks


def silence_lightning() -> None:
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
        ".*predict returned None.*",
        ".*`training_step` returned `None`.*",
        ".*dirpath has changed from.*",
        ".*callbacks used to create the checkpoint.*",
    ):
        warnings.filterwarnings("ignore", message=text)
