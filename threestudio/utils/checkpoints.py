"""Checkpoint files: written in one piece, read without running code that they contain."""

import os
import zipfile
from pathlib import Path
from typing import Any, Optional, Union

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from .errors import CheckpointError


def to_plain(value: Any) -> Any:
    """Replace OmegaConf containers by lists and dicts, recursively; tensors and numbers stay as
    they are.
    """
    if isinstance(value, (DictConfig, ListConfig)):
        return OmegaConf.to_container(value, resolve=True)
    if type(value) is dict:
        return {key: to_plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_plain(item) for item in value)
    return value


def write_checkpoint(checkpoint: dict[str, Any], path: Union[str, Path]) -> None:
    """Write `checkpoint` so that `path` holds either the old file or the whole new one, whatever
    happens.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(to_plain(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_partial_files(folder: Union[str, Path]) -> None:
    """Remove what writers that were killed left in a folder of checkpoints."""
    for path in Path(folder).glob("*.ckpt.*.tmp"):
        path.unlink(missing_ok=True)


def read_checkpoint(path: Union[str, Path], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a training checkpoint that holds tensors and plain containers only.

    Raises:
        CheckpointError: If the file is missing, a folder, damaged (checksums are compared), not a
            training checkpoint, or wants to run code.
    """
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"'{path}' is a folder, not a checkpoint.{_newest_in(path)}")
    if not path.is_file():
        raise CheckpointError(f"Checkpoint '{path}' does not exist.{_neighbours(path)}")
    reason = _file_fault(path)
    if reason is not None:
        raise CheckpointError(f"Checkpoint '{path}' cannot be read: {reason}.{_neighbours(path)}")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        if "weights_only" in str(error).lower() and "unsupported" in str(error).lower():
            reason = (
                "it contains objects other than tensors and plain containers, which are not loaded"
            )
        else:
            reason = f"it is damaged or incomplete ({type(error).__name__})"
        raise CheckpointError(
            f"Checkpoint '{path}' cannot be read: {reason}.{_neighbours(path)}"
        ) from error
    if (
        not isinstance(checkpoint, dict)
        or not {"state_dict", "global_step", "epoch"} <= checkpoint.keys()
    ):
        raise CheckpointError(
            f"'{path}' is not a training checkpoint: it has no state_dict, global_step and "
            f"epoch.{_neighbours(path)}"
        )
    return checkpoint


def _file_fault(path: Path) -> Optional[str]:
    """Say what is wrong with a file as such; torch reads damaged numbers without a word."""
    try:
        with open(path, "rb") as file:
            if file.read(2) not in (b"PK", b""):
                return "it is not a checkpoint, which would be a zip archive"
        with zipfile.ZipFile(path) as archive:
            return "it is damaged (a checksum is wrong)" if archive.testzip() else None
    except OSError as error:
        return str(error)
    except Exception as error:  # a damaged file may fail in any way
        return f"it is damaged or incomplete ({type(error).__name__})"


def _newest_in(folder: Path) -> str:
    """Name the newest `last.ckpt`, or else checkpoint, of a run or a folder of runs."""
    patterns = ("*.ckpt", "ckpts/*.ckpt", "*/ckpts/*.ckpt", "*/*/ckpts/*.ckpt")
    found = [path for pattern in patterns for path in folder.glob(pattern)]
    if not found:
        return " There is no checkpoint in it."
    newest = max(found, key=lambda path: (path.name == "last.ckpt", path.stat().st_mtime))
    return f" Did you mean {newest}?"


def _neighbours(path: Path) -> str:
    others = (
        sorted(p for p in path.parent.glob("*.ckpt") if p != path) if path.parent.is_dir() else []
    )
    if not others:
        return ""
    return " Other checkpoints there: " + ", ".join(str(p) for p in others[-5:]) + "."
