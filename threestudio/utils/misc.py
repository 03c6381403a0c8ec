"""Schedules, devices, checkpoints' weights, and small distributed helpers."""

import gc
import os
from functools import wraps
from typing import Any, Callable, Optional, Union

import torch
import torch.nn as nn
from omegaconf import ListConfig
from packaging import version

from .checkpoints import read_checkpoint
from .logging import get_rank
from .typing import Number

__all__ = [
    "C",
    "barrier",
    "broadcast",
    "cleanup",
    "enable_gradient",
    "find_last_path",
    "finish_with_cleanup",
    "get_device",
    "get_rank",
    "load_module_weights",
    "parse_version",
    "schedule_fault",
    "set_cpu_only",
]


def parse_version(text: str) -> version.Version:
    """Parse a PEP 440 version, for comparisons."""
    return version.parse(text)


_cpu_only = False


def set_cpu_only(cpu_only: bool) -> None:
    """Keep components off the GPU; a run does so when its trainer is to use the CPU."""
    global _cpu_only
    _cpu_only = cpu_only


def get_device() -> torch.device:
    """Return this process's CUDA device, or the CPU where there is none or none is wanted."""
    if _cpu_only or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device(f"cuda:{get_rank()}")


def load_module_weights(
    path: str,
    module_name: Optional[str] = None,
    ignore_modules: Optional[list[str]] = None,
    map_location: Optional[Union[str, torch.device]] = None,
) -> tuple[dict[str, torch.Tensor], int, int]:
    """Read (part of) the state dict of a training checkpoint.

    Args:
        path: Checkpoint file.
        module_name: Keep only this module's entries, with the name removed from the keys.
        ignore_modules: Drop the entries of these modules. Not together with `module_name`.
        map_location: As in `torch.load`; None is the CPU.

    Returns:
        The state dict, and epoch and step at which it was saved.
    """
    if module_name is not None and ignore_modules is not None:
        raise ValueError("`module_name` and `ignore_modules` exclude each other: give one of them.")
    checkpoint = read_checkpoint(path, map_location="cpu" if map_location is None else map_location)
    state = checkpoint["state_dict"]
    if module_name is not None:
        prefix = f"{module_name}."
        state = {
            key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)
        }
    elif ignore_modules is not None:
        prefixes = tuple(f"{name}." for name in ignore_modules)
        state = {key: value for key, value in state.items() if not key.startswith(prefixes)}
    return state, checkpoint["epoch"], checkpoint["global_step"]


def schedule_fault(value: Any) -> Optional[str]:
    """Say what is wrong with a schedule, None if nothing is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return None
    if not isinstance(value, (list, tuple, ListConfig)):
        return f"{value!r} is neither a number nor a list of numbers"
    if any(isinstance(item, bool) or not isinstance(item, (int, float)) for item in value):
        return f"{list(value)!r} has an entry that is not a number"
    if len(value) in (3, 4) or (len(value) >= 6 and len(value) % 2 == 0):
        return None
    return (
        f"{list(value)!r} has {len(value)} entries; allowed are [v0, v1, s1], [s0, v0, v1, s1] and "
        "[s0, v0, v1, s1, v2, s2, ...] (values v, steps s)"
    )


def C(value: Any, epoch: int, global_step: int, interpolation: str = "linear") -> Number:
    """Evaluate a schedule.

    A number is constant. `[s0, v0, v1, s1]` goes from `v0` at step `s0` to `v1` at step `s1` and
    stays there; `[v0, v1, s1]` starts at step 0; `[s0, v0, v1, s1, v2, s2, ...]` continues to
    further values. The segment is chosen by `global_step`; a segment whose end is written as a
    float (`5000.0`) counts epochs instead of steps.

    Args:
        value: Number or list, as above.
        epoch: Current epoch.
        global_step: Current step.
        interpolation: `"linear"`, or `"exp"` for a geometric one (positive values).
    """
    fault = schedule_fault(value)
    if fault is not None:
        raise TypeError(f"Not a schedule: {fault}.")
    if isinstance(value, (int, float)):
        return value
    points = list(value)
    if len(points) == 3:
        points = [0, *points]
    start, start_value = points[0], points[1]
    segments = [(start, start_value, points[2], points[3])]
    for next_value, next_step in zip(points[4::2], points[5::2], strict=True):
        _, _, last_value, last_step = segments[-1]
        segments.append((last_step, last_value, next_value, next_step))
    reached = [segment for segment in segments if global_step >= segment[0]]
    return _interpolate(
        *(reached or segments)[-1 if reached else 0], epoch, global_step, interpolation
    )


def _interpolate(
    start: Number,
    v0: Number,
    v1: Number,
    end: Number,
    epoch: int,
    global_step: int,
    interpolation: str,
) -> Number:
    current = epoch if isinstance(end, float) else global_step
    share = 1.0 if end == start else max(min(1.0, (current - start) / (end - start)), 0.0)
    if interpolation == "linear":
        return v0 + (v1 - v0) * share
    if interpolation == "exp":
        return v0 * (v1 / v0) ** share
    raise ValueError(f"Unknown interpolation '{interpolation}'. Use 'linear' or 'exp'.")


def cleanup() -> None:
    """Give unused memory back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def finish_with_cleanup(function: Callable) -> Callable:
    """Decorate a function so that memory is given back after it."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        out = function(*args, **kwargs)
        cleanup()
        return out

    return wrapper


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def barrier() -> None:
    """Wait for all processes; nothing to do for a single one."""
    if _is_distributed():
        torch.distributed.barrier()


def broadcast(tensor: torch.Tensor, src: int = 0) -> torch.Tensor:
    """Copy rank `src`'s tensor to all processes, in place."""
    if _is_distributed():
        torch.distributed.broadcast(tensor, src=src)
    return tensor


def enable_gradient(model: nn.Module, enabled: bool = True) -> None:
    """Switch the gradients of all parameters."""
    for parameter in model.parameters():
        parameter.requires_grad_(enabled)


def find_last_path(path: Optional[str]) -> Optional[str]:
    """Replace `LAST` by the newest name: `outputs/run/a_cube@LAST/ckpts/last.ckpt`.

    The text before `LAST` is a folder and the beginning of a name in it; the last match in
    alphabetical order, which is the newest timestamp, is taken.
    """
    if path is None or "LAST" not in path:
        if path is not None and not os.path.exists(path):
            raise FileNotFoundError(f"'{path}' does not exist.")
        return path
    prefix, _, suffix = path.replace(" ", "_").partition("LAST")
    folder, start = os.path.split(prefix)
    names = sorted(os.listdir(folder or "."), reverse=True) if os.path.isdir(folder or ".") else []
    match = next((name for name in names if name.startswith(start)), None)
    found = None if match is None else os.path.join(folder, match) + suffix
    if found is None or not os.path.exists(found):
        raise FileNotFoundError(f"'{path}' matches no existing path (looked in '{folder or '.'}').")
    return found
