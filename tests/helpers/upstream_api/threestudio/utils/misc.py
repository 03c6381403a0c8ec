"""Schedules and the process's rank, on a CPU."""

from typing import Any

import torch


def get_rank() -> int:
    """Return the rank of a single process."""
    return 0


def get_device() -> torch.device:
    """Return the CPU."""
    return torch.device("cpu")


def C(value: Any, epoch: int, global_step: int) -> float:
    """Evaluate a number or `[s0, v0, v1, s1]`."""
    if isinstance(value, (int, float)):
        return value
    start, first, last, end = value
    share = max(min((global_step - start) / (end - start), 1.0), 0.0)
    return first + (last - first) * share
