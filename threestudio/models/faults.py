"""Raising what a component's `check` found, and checks that several components share. The launcher
calls `check` before anything is built."""

import math
from collections.abc import Sequence
from typing import Any

from threestudio.utils.errors import ConfigError
from threestudio.utils.fields import is_number
from threestudio.utils.ops import get_activation


def refuse(faults: list[str]) -> None:
    """Raise one error with all faults, if there are any."""
    if faults:
        raise ConfigError("\n".join(faults))


def activation_faults(key: str, name: Any) -> list[str]:
    """Say so if an activation is not known."""
    try:
        get_activation(name)
    except ValueError as error:
        return [f"`{key}`: {error}"]
    return []


def is_real(value: Any) -> bool:
    """Tell finite numbers from everything else."""
    return is_number(value) and math.isfinite(value)


def color_faults(key: str, value: Any, channels: int) -> list[str]:
    """Check that a setting is one finite number for each channel."""
    numbers = isinstance(value, Sequence) and not isinstance(value, str)
    if numbers and len(value) == channels and all(map(is_real, value)):
        return []
    return [f"`{key}` is {value!r}; it must be {channels} numbers, such as {[0.5] * channels}."]


def probability_faults(prefix: str, cfg: Any, *names: str) -> list[str]:
    """List the settings that are no probabilities."""
    return [
        f"`{prefix}.{name}` is {getattr(cfg, name)}; it is a probability, from 0 to 1."
        for name in names
        if not 0 <= getattr(cfg, name) <= 1
    ]


def count_faults(prefix: str, cfg: Any, *names: str) -> list[str]:
    """List the settings that are below 1."""
    return [
        f"`{prefix}.{name}` is {getattr(cfg, name)}; it must be at least 1."
        for name in names
        if getattr(cfg, name) < 1
    ]
