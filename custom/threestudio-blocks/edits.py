"""Edits in the blocks world: clean front views to start from, and what an edit must leave alone.

    python -m custom.threestudio-blocks.edits "a red cube on the left of a blue sphere" source.png

An edit changes the colour or the shape of the first solid of a pair, or the relation. Source and
target of an edit are rendered with the same draws, so they differ only where the edit does.
"""

import argparse
import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .captions import (
    COLORS,
    RELATIONS,
    SHAPES,
    Caption,
    Solid,
    pair_captions,
    pair_splits,
    parse_caption,
)
from .judge import BACKGROUND
from .renders import IMAGE_SIZE, SUPERSAMPLING, canonical_batches, compose, render_layers, scenes_of

KINDS = ("color", "shape", "relation")
MARGIN = 3
"""Pixels around what an edit changes that it may change, too: latents are coarser than pixels."""


@dataclass(frozen=True)
class Edit:
    """What to change in a picture."""

    kind: str
    """One of KINDS."""
    source: Caption
    target: Caption


def edits(split: str, count: int) -> list[Edit]:
    """List edits of captions of a split, the three kinds in turn; targets are of the split, too.

    Captions without a target that the next kind needs are passed over.

    Raises:
        ValueError: The split has fewer edits.
    """
    captions, found = iter(pair_captions(split)), []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        edit = next(filter(None, (edit_of(caption, kind, split) for caption in captions)), None)
        if edit is None:
            raise ValueError(f"The {split} split has {len(found)} edits, not {count}.")
        found.append(edit)
    return found


def edit_of(source: Caption, kind: str, split: str) -> Edit | None:
    """Choose one edit of a kind whose target is of a split, always the same for the same caption;
    None if there is no such target."""
    first, second = source.first, source.second
    if kind == "relation":
        others = [source.with_relation(r) for r in RELATIONS if r != source.relation]
    elif kind == "color":
        free = [color for color in COLORS if color not in (first.color, second.color)]
        others = [replace(source, first=Solid(first.shape, color)) for color in free]
    else:
        free = [shape for shape in SHAPES if shape not in (first.shape, second.shape)]
        others = [replace(source, first=Solid(shape, first.color)) for shape in free]
    known = {frozenset(pair) for pair in pair_splits()[split]}
    targets = [other for other in others if frozenset((other.first, other.second)) in known]
    return (
        Edit(kind, source, random.Random(f"{source}/{kind}").choice(targets)) if targets else None
    )


def front_picture(caption: Caption, seed: int) -> Float[Tensor, "3 64 64"]:
    """Render the front view of a caption on grey; `seed` places and turns the solids."""
    scene = scenes_of([caption], torch.Generator().manual_seed(seed))
    camera = canonical_batches(IMAGE_SIZE * SUPERSAMPLING)[0]
    layers = render_layers(scene, camera["rays_o"][None], camera["rays_d"][None])[0, 0]
    solids = (caption.first, caption.second or caption.first)
    colors = torch.tensor([COLORS[solid.color] for solid in solids])
    return compose(layers, colors, torch.full((3,), BACKGROUND))


def changed_region(edit: Edit, seed: int) -> Bool[Tensor, "64 64"]:
    """Return where an edit may change the picture: where the renders differ, and MARGIN around."""
    before, after = (front_picture(caption, seed) for caption in (edit.source, edit.target))
    differs = ((before - after).abs().amax(dim=0) > 1 / 255).float()
    return F.max_pool2d(differs[None], 2 * MARGIN + 1, stride=1, padding=MARGIN)[0] > 0


def distance_outside(
    picture: Float[Tensor, "3 64 64"],
    source: Float[Tensor, "3 64 64"],
    region: Bool[Tensor, "64 64"],
) -> float:
    """Mean absolute difference of two pictures in [0, 1] outside of a region."""
    return (picture - source).abs()[:, ~region].mean().item()


def save_picture(picture: Float[Tensor, "3 64 64"], path: Path) -> None:
    """Write a picture losslessly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


def main() -> None:
    """Render the front view of one caption to a file."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("caption")
    options.add_argument("path", type=Path)
    options.add_argument("--seed", type=int, default=0)
    options = options.parse_args()
    try:
        caption = parse_caption(options.caption)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    save_picture(front_picture(caption, options.seed), options.path)


if __name__ == "__main__":
    main()
