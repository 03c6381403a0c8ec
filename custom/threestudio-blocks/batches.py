"""Coloured pictures with their captions, drawn from rendered scenes."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .captions import COLORS, RELATIONS, SHAPES, Caption, Solid, pair_splits, single_splits
from .renders import COLOR_TABLE, SINGLE, Renders, Scenes, compose

COLOR_NAMES = tuple(COLORS)
QUADRANTS = ("front", "side", "back", "side")
"""View words of azimuths within 45 degrees of 0, 90, 180 and 270."""


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of N scenes from V views.

    Attributes:
        images: RGB in [0, 1].
        captions: True caption of each scene.
        index: Which rendered scene.
        c2w: Camera-to-world.
        azimuth_deg: Azimuth of each view.
    """

    images: Float[Tensor, "N V 3 h w"]
    captions: list[Caption]
    index: Int[Tensor, " N"]
    c2w: Float[Tensor, "N V 4 4"]
    azimuth_deg: Float[Tensor, "N V"]


@lru_cache
def _training_colors(shape_a: str, shape_b: str | None) -> Int[Tensor, "M 2"]:
    """Colour indices that the training split has for one shape or an ordered pair of shapes."""
    if shape_b is None:
        singles = [solid for solid in single_splits()["train"] if solid.shape == shape_a]
        pairs = [(solid, solid) for solid in singles]
    else:
        pairs = [pair for known in pair_splits()["train"] for pair in (known, known[::-1])]
        pairs = [pair for pair in pairs if (pair[0].shape, pair[1].shape) == (shape_a, shape_b)]
    return torch.tensor([[COLOR_NAMES.index(solid.color) for solid in pair] for pair in pairs])


def caption_of(scenes: Scenes, index: int, colors: Int[Tensor, "2"]) -> Caption:
    """Say what a scene shows once it is coloured."""
    shape_a, shape_b = scenes.shapes[index].tolist()
    first = Solid(SHAPES[shape_a], COLOR_NAMES[colors[0]])
    if shape_b == SINGLE:
        return Caption(first)
    return Caption(
        first, RELATIONS[scenes.relation[index]], Solid(SHAPES[shape_b], COLOR_NAMES[colors[1]])
    )


def draw_colors(
    renders: Renders, index: Int[Tensor, " N"], generator: torch.Generator
) -> Int[Tensor, "N 2"]:
    """Draw colours of the training split for both solids of every scene."""
    rows = []
    for shape_a, shape_b in renders.scenes.shapes[index].tolist():
        known = _training_colors(SHAPES[shape_a], None if shape_b == SINGLE else SHAPES[shape_b])
        rows.append(known[torch.randint(len(known), (1,), generator=generator).item()])
    return torch.stack(rows)


def colored_batch(
    renders: Renders,
    index: Int[Tensor, " N"],
    generator: torch.Generator,
    colors: Int[Tensor, "N 2"] | None = None,
    background: Float[Tensor, "N 3"] | None = None,
) -> PictureBatch:
    """Colour the given scenes, each on its own plain background shared by its views.

    Args:
        renders: Rendered scenes.
        index: Which of them.
        generator: Source of randomness.
        colors: Index into COLORS of both solids; drawn from the training split when None.
        background: RGB; drawn uniformly when None.
    """
    if colors is None:
        colors = draw_colors(renders, index, generator)
    if background is None:
        background = torch.rand(len(index), 3, generator=generator)
    images = compose(renders.layers_of(index), COLOR_TABLE[colors][:, None], background[:, None])
    captions = [
        caption_of(renders.scenes, i, c) for i, c in zip(index.tolist(), colors, strict=True)
    ]
    return PictureBatch(images, captions, index, renders.c2w[index], renders.azimuth_deg[index])


def random_batch(renders: Renders, num_scenes: int, generator: torch.Generator) -> PictureBatch:
    """Draw scenes and colour them."""
    return colored_batch(
        renders, torch.randint(len(renders), (num_scenes,), generator=generator), generator
    )


def view_of(azimuth_deg: float, threshold_deg: float = 45.0) -> str:
    """Name a view as threestudio's prompt processor does with its default thresholds."""
    azimuth = (azimuth_deg + 180) % 360 - 180
    if abs(azimuth) < threshold_deg:
        return "front"
    return "back" if abs(azimuth) > 180 - threshold_deg else "side"


def front_first(batch: PictureBatch) -> PictureBatch:
    """Order the four views of every scene as QUADRANTS says; they are 90 degrees apart."""
    order = (((batch.azimuth_deg + 45) % 360) // 90).argsort(dim=1)
    rows = torch.arange(len(order))[:, None]
    images, c2w, azimuth = (x[rows, order] for x in (batch.images, batch.c2w, batch.azimuth_deg))
    return PictureBatch(images, batch.captions, batch.index, c2w, azimuth)
