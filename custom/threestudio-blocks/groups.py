"""Groups of pictures that differ in the relation only, with true and false captions.

They are what the reward learns from.
"""

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .augment import soften
from .batches import QUADRANTS, PictureBatch, colored_batch, draw_colors, front_first
from .captions import COLORS, RELATIONS, SHAPES, Caption, Solid, with_view
from .previews import Previewer
from .renders import NUM_VIEWS, SINGLE, Renders
from .training import python_rng

GROUP = len(RELATIONS)
TWIN_SHARE = 0.5
"""Share of captions that are said the other way round."""
SHARED_BACKGROUND = 0.5
"""Share of groups whose pictures have one background."""
SOFT_SHARE = 0.4
"""Share of renders that are softened."""
PREVIEW_EVERY = 4
"""One group of so many is shown as the prior's previews, once there is a prior."""


@dataclass(frozen=True)
class GroupBatch:
    """Pictures in groups of four, in the order of RELATIONS, with eight captions each."""

    images: Float[Tensor, "M 3 h w"]
    texts: list[str]
    """Eight per picture: those of its group's four relations in order, then four false ones."""
    sided: list[bool]
    """Per group: seen from the front or the back, where left and right can be told apart."""


class GroupSampler:
    """Draws groups of four pictures: the same coloured solids in every relation, seen from the
    same side."""

    def __init__(self, renders: Renders) -> None:
        self.renders = renders
        self.scenes_of: dict[tuple[int, int, int], list[int]] = {}
        for index, ((a, b), relation) in enumerate(
            zip(renders.scenes.shapes.tolist(), renders.scenes.relation.tolist(), strict=True)
        ):
            self.scenes_of.setdefault((a, b, relation), []).append(index)
        shapes = sorted({(a, b) for a, b, relation in self.scenes_of if relation != SINGLE})
        self.pairs = [
            (a, b) for a, b in shapes if all((a, b, r) in self.scenes_of for r in range(GROUP))
        ]

    def draw(self, generator: torch.Generator, rng: random.Random) -> PictureBatch:
        """Draw a group of four scenes, in the order of RELATIONS, views in that of QUADRANTS.

        Every scene has its own cameras and, in half of the groups, its own background.
        """
        a, b = rng.choice(self.pairs)
        index = torch.tensor([rng.choice(self.scenes_of[a, b, r]) for r in range(GROUP)])
        colors = draw_colors(self.renders, index[:1], generator).expand(GROUP, 2)
        background = torch.rand(GROUP, 3, generator=generator)
        if rng.random() < SHARED_BACKGROUND:
            background = background[:1].expand(GROUP, 3)
        drawn = colored_batch(self.renders, index, generator, colors=colors, background=background)
        return front_first(drawn)


def foreign_captions(caption: Caption, rng: random.Random) -> list[Caption]:
    """Captions of wrong attributes: colours exchanged, shapes exchanged, one colour or shape
    replaced."""
    a, b = caption.first, caption.second
    other_color = rng.choice([c for c in COLORS if c not in (a.color, b.color)])
    other_shape = rng.choice([s for s in SHAPES if s not in (a.shape, b.shape)])
    exchanged = Caption(Solid(a.shape, b.color), caption.relation, Solid(b.shape, a.color))
    recolored = Caption(Solid(a.shape, other_color), caption.relation, b)
    reshaped = Caption(a, caption.relation, Solid(other_shape, b.color))
    both = Caption(Solid(other_shape, a.color), caption.relation, Solid(b.shape, other_color))
    return [exchanged, recolored, reshaped, both]


def caption_texts(captions: list[Caption], view: str, rng: random.Random) -> list[str]:
    """Write captions with the view suffix, half of them as their mirror twin."""
    return [with_view(c.twin if rng.random() < TWIN_SHARE else c, view) for c in captions]


def draw_groups(
    sampler: GroupSampler,
    previewer: Previewer | None,
    num_groups: int,
    generator: torch.Generator,
) -> GroupBatch:
    """Draw groups: one view of each, or several where they are shown as previews."""
    rng = python_rng(generator)
    pictures: list[Tensor] = []
    texts: list[str] = []
    sided: list[bool] = []
    for number in range(num_groups):
        group = sampler.draw(generator, rng)
        images, captions = group.images, group.captions
        shown = [rng.randrange(NUM_VIEWS)]
        if previewer is not None and number % PREVIEW_EVERY == 0:
            images = previewer.preview(images, group.c2w, captions, generator, rng)
            shown = [0, 2, rng.choice([1, 3])]  # front, back and a side
        for view in shown:
            seen = images[:, view]
            pictures.append(soften(seen, generator) if rng.random() < SOFT_SHARE else seen)
            for caption in captions:
                texts += caption_texts(captions, QUADRANTS[view], rng)
                texts += caption_texts(foreign_captions(caption, rng), QUADRANTS[view], rng)
            sided.append(QUADRANTS[view] in ("front", "back"))
    return GroupBatch(torch.cat(pictures), texts, sided)
