"""Lightning callbacks: checkpoints that survive a kill, Ctrl+C, snapshots, progress bar."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import pytorch_lightning as pl
from omegaconf import OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks.progress import TQDMProgressBar
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from .checkpoints import read_checkpoint, remove_partial_files, write_checkpoint
from .config import dump_config, merge_sources
from .errors import NonFiniteError
from .logging import debug, info, warn

MAX_SNAPSHOT_BYTES = 1_000_000
"""Larger files are not code and are left out of the snapshot."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint in one piece, with plain containers only; reads without running code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Optional[Any] = None
    ) -> None:
        """Write, replacing an older file at once."""
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: Optional[bool] = None
    ) -> dict[str, Any]:
        """Read tensors and plain containers, whatever `weights_only` says."""
        return read_checkpoint(path, map_location="cpu" if map_location is None else map_location)


class StopOnSignal(Callback):
    """Ends the training after the running step at the first Ctrl+C or SIGTERM; a second Ctrl+C
    quits.

    After Ctrl+C the run goes on to what follows the training (its test), after SIGTERM, which comes
    from somebody who is about to switch the machine off, it does not. Signals reach the main thread
    only: elsewhere Lightning's own handling stays.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self.terminated = False
        self._former: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in (
                (signal.SIGINT, self._interrupt),
                (signal.SIGTERM, self._terminate),
            ):
                self._former[signum] = signal.signal(signum, handler)

    def _interrupt(self, signum: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        warn("Interrupted: the training ends after this step. Press Ctrl+C again to quit at once.")

    def _terminate(self, signum: int, frame: Any) -> None:
        self.terminated = True
        warn("Told to stop: the training ends after this step, and is saved.")

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.interrupted or self.terminated

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, *args: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._former.items():
            signal.signal(signum, handler)
        self._former.clear()


class RollingCheckpoint(Callback):
    """Keeps `last.ckpt` up to date, and saves the state when a run fails or is stopped.

    Args:
        folder: Folder of the checkpoints.
        every_n_steps: Steps between two writes.
    """

    def __init__(self, folder: str, every_n_steps: int = 250) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._saved_step = -1
        self._training = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = True
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            remove_partial_files(self.path.parent)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        ends = step == trainer.max_steps or trainer.should_stop
        if (ends or step % self.every_n_steps == 0) and step != self._saved_step:
            trainer.save_checkpoint(self.path)
            self._saved_step = step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = False

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save what there was before the failing step and say where it is."""
        if not self._training:
            return
        self._training = False
        if isinstance(exception, KeyboardInterrupt):
            known = f"Continue with resume={self.path}" if self.path.exists() else "Nothing saved"
            info(f"Interrupted at step {trainer.global_step}. {known}.")
            return
        kind = "nan" if _is_about_nan(exception) else "error"
        path = self.path.with_name(f"{kind}-step{trainer.global_step}.ckpt")
        try:
            trainer.save_checkpoint(path)
        except Exception as failure:  # the first error is the one to show
            warn(f"The state could not be saved: {failure}")
            return
        note = f"The state before the failed step was saved: {path}"
        if self.path.exists():
            note += f"\nThe last regular checkpoint: {self.path}"
        exception.add_note(note)


def _is_about_nan(exception: BaseException) -> bool:
    text = str(exception).lower()
    return isinstance(exception, NonFiniteError) or "nan" in text.split() or "finite" in text


class VersionedCallback(Callback):
    """A callback that writes into a folder, optionally `version_k` below it."""

    def __init__(
        self, save_root: str, version: Optional[int] = None, use_version: bool = True
    ) -> None:
        self.save_root = save_root
        self._version = version
        self.use_version = use_version

    @property
    def version(self) -> int:
        """Number of this run's folder: the given one, else the first that is free."""
        if self._version is None:
            names = os.listdir(self.save_root) if os.path.isdir(self.save_root) else []
            taken = [n.split("_")[1] for n in names if n.startswith("version_")]
            self._version = max((int(n) for n in taken if n.isdigit()), default=-1) + 1
        return self._version

    @property
    def savedir(self) -> str:
        """Folder to write into."""
        if not self.use_version:
            return self.save_root
        return os.path.join(self.save_root, f"version_{self.version}")


class CodeSnapshotCallback(VersionedCallback):
    """Copies the code in the current folder: what git tracks, and what it does not ignore."""

    def file_list(self) -> list[str]:
        """List the files to copy: not assets (`load/`), nothing large."""
        listed = set()
        for extra in ((), ("--others", "--exclude-standard")):
            command = ["git", "ls-files", "-z", *extra]
            output = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
            listed.update(name for name in output.decode(errors="replace").split("\0") if name)
        return sorted(
            name
            for name in listed
            if not name.startswith("load/")
            and os.path.isfile(name)
            and os.path.getsize(name) <= MAX_SNAPSHOT_BYTES
        )

    @rank_zero_only
    def save_code_snapshot(self) -> None:
        """Copy the files."""
        for name in self.file_list():
            target = Path(self.savedir, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        try:
            self.save_code_snapshot()
        except (OSError, subprocess.SubprocessError) as error:
            debug(f"No snapshot of the code: {error}. It needs git and a repository.")


class ConfigSnapshotCallback(VersionedCallback):
    """Writes the resolved configuration (`parsed.yaml`) and a copy of the YAML (`raw.yaml`).

    `parsed.yaml` is without `resume`: a later run with it would else continue this checkpoint
    unasked. Of several YAMLs `raw.yaml` is the merge, not resolved. A resumed run keeps the
    `raw.yaml` that is there: it is what the user wrote.
    """

    def __init__(
        self,
        config_path: Union[str, Sequence[str]],
        config: Any,
        save_root: str,
        version: Optional[int] = None,
        use_version: bool = True,
    ) -> None:
        super().__init__(save_root, version, use_version)
        self.config_paths = [config_path] if isinstance(config_path, str) else list(config_path)
        self.config = config

    @rank_zero_only
    def save_config_snapshot(self) -> None:
        """Write both files."""
        os.makedirs(self.savedir, exist_ok=True)
        raw = os.path.join(self.savedir, "raw.yaml")
        first, *later = self.config_paths
        keep = os.path.exists(raw) and (self.config.resume or os.path.samefile(first, raw))
        if later and not keep:
            dump_config(raw, merge_sources(*self.config_paths))
        elif not keep:
            shutil.copyfile(first, raw)
        parsed = OmegaConf.merge(self.config, {"resume": None})
        dump_config(os.path.join(self.savedir, "parsed.yaml"), parsed)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save_config_snapshot()


class CustomProgressBar(TQDMProgressBar):
    """A bar over the whole training, with loss and reward."""

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what stands behind the bar, with short names."""
        items = super().get_metrics(*args, **kwargs)
        return {k.removeprefix("train/"): v for k, v in items.items() if k != "v_num"}

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        """Count up to `max_steps`: the camera data never ends."""
        super().on_train_epoch_start(trainer, *args)
        if self.train_progress_bar.total is None and trainer.max_steps > 0:
            self.train_progress_bar.total = trainer.max_steps
        self.train_progress_bar.set_description("Training")
