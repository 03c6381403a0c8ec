"""Slots: what stands left, right, top, bottom and in the centre of a scene or a picture."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .captions import COLORS, SHAPES, SLOTS, Solid, parse_caption

COLOR_NAMES = tuple(COLORS)
EMPTY = len(SHAPES)
"""Index of "nothing here" among the shape logits."""
IGNORED = -100
"""Target of what is not asked: the colour of an empty slot, a slot that cannot be seen."""

MIRRORED = {"left": "right", "right": "left"}

Logits = tuple[Float[Tensor, "N slots shapes"], Float[Tensor, "N slots colors"]]
Targets = tuple[Int[Tensor, "N slots"], Int[Tensor, "N slots"]]


class SlotHead(nn.Module):
    """Reads from features which shape (or none) and which colour every slot has.

    Args:
        width: D, length of a feature vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SLOTS) * (len(SHAPES) + 1))
        self.color = nn.Linear(width, len(SLOTS) * len(COLORS))

    def forward(self, features: Float[Tensor, "N D"]) -> Logits:
        """Return the logits of shape, the last one being "empty", and of colour."""
        heads = (self.shape, self.color)
        shapes, colors = (head(features).unflatten(1, (len(SLOTS), -1)) for head in heads)
        return shapes, colors


def slot_targets(scenes: list[dict[str, Solid] | None]) -> Targets:
    """Turn filled slots into classes of shape and colour; None asks nothing of a scene."""
    shapes = torch.full((len(scenes), len(SLOTS)), EMPTY)
    colors = torch.full_like(shapes, IGNORED)
    for row, slots in enumerate(scenes):
        if slots is None:
            shapes[row] = IGNORED
            continue
        for slot, solid in slots.items():
            shapes[row, SLOTS.index(slot)] = SHAPES.index(solid.shape)
            colors[row, SLOTS.index(slot)] = COLOR_NAMES.index(solid.color)
    return shapes, colors


def slot_loss(logits: Logits, targets: Targets) -> tuple[Tensor, Tensor]:
    """Cross-entropy of shape and of colour."""
    shape, color = (
        F.cross_entropy(x.float().flatten(0, 1), y.flatten().to(x.device), ignore_index=IGNORED)
        for x, y in zip(logits, targets, strict=True)
    )
    return shape, color


def slots_in_view(text: str) -> dict[str, Solid] | None:
    """Where a caption with view suffix puts its solids in the picture.

    From the back left and right are exchanged; from the side they hide one another: None.
    """
    words, view = text.removesuffix(" view").rsplit(", ", 1)
    slots = parse_caption(words).slots
    if view == "side" and "left" in slots:
        return None
    if view == "back":
        return {MIRRORED.get(slot, slot): solid for slot, solid in slots.items()}
    return slots
