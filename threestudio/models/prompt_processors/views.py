"""View directions: which words a prompt gets for a camera. Angles in degrees, azimuth 0 is the
front."""

from dataclasses import dataclass
from typing import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Condition = Callable[[Tensor, Tensor, Tensor], Tensor]
NAMES = ("side", "front", "back", "overhead")
"""Directions in the order of their indices; where several apply, the last one counts."""


@dataclass
class DirectionConfig:
    """One view direction."""

    name: str
    prompt: Callable[[str], str]
    """Turns a prompt into the one of this view."""
    negative_prompt: Callable[[str], str]
    """The same for the negative prompt."""
    condition: Condition
    """Tells for elevations, azimuths and distances [B] which cameras see the scene from here."""


def shift_azimuth_deg(azimuth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Wrap an azimuth to [-180, 180)."""
    return (azimuth + 180) % 360 - 180


def make_directions(
    front: float, back: float, overhead: float, in_front: bool
) -> list[DirectionConfig]:
    """Build the four directions.

    Args:
        front: A camera is in front below this absolute azimuth.
        back: A camera is behind when it is closer than this to azimuth 180.
        overhead: A camera is overhead above this elevation.
        in_front: Write "front view of {prompt}" instead of "{prompt}, front view".
    """
    conditions: list[Condition] = [
        lambda elevation, azimuth, distance: torch.ones_like(elevation, dtype=torch.bool),
        lambda elevation, azimuth, distance: shift_azimuth_deg(azimuth).abs() < front,
        lambda elevation, azimuth, distance: shift_azimuth_deg(azimuth).abs() > 180 - back,
        lambda elevation, azimuth, distance: elevation > overhead,
    ]

    def words(name: str) -> Callable[[str], str]:
        if in_front:
            view = "backside" if name == "back" else name
            return lambda prompt: f"{view} view of {prompt}"
        return lambda prompt: f"{prompt}, {name} view"

    return [
        DirectionConfig(name, words(name), lambda prompt: prompt, condition)
        for name, condition in zip(NAMES, conditions, strict=True)
    ]


def direction_indices(
    directions: list[DirectionConfig],
    elevation: Float[Tensor, " B"],
    azimuth: Float[Tensor, " B"],
    distance: Float[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """Return the index of the last direction that applies to each camera."""
    index = torch.zeros_like(elevation, dtype=torch.long)
    for i, direction in enumerate(directions):
        applies: Bool[Tensor, " B"] = direction.condition(elevation, azimuth, distance)
        index = torch.where(applies, i, index)
    return index
