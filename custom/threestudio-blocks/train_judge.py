"""Train the judge, or with `--front` its single-view sibling for 2D pictures.

    python -m custom.threestudio-blocks.train_judge
    python -m custom.threestudio-blocks.train_judge --front

Its pictures are clean renders that are blurred, shifted, speckled and recoloured a little, so that
it also reads soft NeRF renders. Half of those with `--front` went through the autoencoder of the
prior, as results in 2D do: a small cube comes back round.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threestudio.utils.random import stream

from .augment import soften
from .batches import colored_batch, draw_colors
from .decoded import through_autoencoder
from .judge import BACKGROUND, Judge, JudgeNetwork
from .renders import NUM_VIEWS, SINGLE, Renders, load_or_render
from .slots import COLOR_NAMES, EMPTY, IGNORED, slot_loss, slot_targets
from .training import Trainer, mixed_precision, parse, parser

EMPTY_SHARE = 0.05
GREY_SHARE = 0.5
"""NeRFs are judged on grey; samples of the prior come on any plain background."""
CANONICAL_SEED, NUM_CANONICAL = 101, 6000
DECODED_SHARE, NUM_DECODED = 0.5, 8192
STEPS, FRONT_STEPS = 2700, 6000


def judge_colors(
    renders: Renders, index: Int[Tensor, " N"], generator: torch.Generator
) -> Int[Tensor, "N 2"]:
    """Draw colours for the judge: pairs of the training split, singles in every colour.

    The judge guides nothing. From the 28 singles of the training split it learns which colours a
    cone has instead of reading them.
    """
    colors = draw_colors(renders, index, generator)
    any_color = torch.randint(len(COLOR_NAMES), (len(index), 1), generator=generator)
    single = renders.scenes.relation[index] == SINGLE
    return torch.where(single[:, None], any_color, colors)


def front_index(renders: Renders) -> Tensor:
    """For every scene that has one, the pair (scene, view) of a view within 45 degrees of the
    front."""
    wrapped = (renders.azimuth_deg + 180) % 360 - 180
    return (wrapped.abs() < 45).nonzero()


def draw_views(
    renders: Renders, options, generator: torch.Generator, num: int
) -> tuple[Float[Tensor, "N V 3 h w"], Tensor, Tensor]:
    """Draw pictures of the kind that the judge is going to see, with their targets."""
    if options.front:
        rows = front_index(renders)
        rows = rows[torch.randint(len(rows), (num,), generator=generator)]
        colors = judge_colors(renders, rows[:, 0], generator)
        batch = colored_batch(renders, rows[:, 0], generator, colors=colors)
        views = batch.images[torch.arange(num), rows[:, 1]][:, None]
    else:
        index = torch.randint(len(renders), (num,), generator=generator)
        plain = torch.rand(num, 3, generator=generator)
        grey = BACKGROUND + 0.08 * (torch.rand(num, 3, generator=generator) - 0.5)
        is_grey = torch.rand(num, 1, generator=generator) < GREY_SHARE
        background = torch.where(is_grey, grey, plain)
        colors = judge_colors(renders, index, generator)
        batch = colored_batch(renders, index, generator, colors=colors, background=background)
        views = batch.images
    shapes, colors = slot_targets([caption.slots for caption in batch.captions])
    empty = torch.rand(num, generator=generator) < EMPTY_SHARE
    views = torch.where(
        empty[:, None, None, None, None], views[..., :1, :1].expand_as(views), views
    )
    shapes[empty], colors[empty] = EMPTY, IGNORED
    return views, shapes, colors


def some_of(
    pool: Sequence[Tensor], drawn: Sequence[Tensor], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Replace DECODED_SHARE of what was drawn by what is drawn from a pool."""
    num = len(drawn[0])
    chosen = torch.rand(num, generator=generator) < DECODED_SHARE
    rows = torch.randint(len(pool[0]), (num,), generator=generator)[chosen]
    return tuple(
        own.index_put((chosen.nonzero()[:, 0],), other[rows])
        for own, other in zip(drawn, pool, strict=True)
    )


def decoded_views(
    renders: Renders, options: argparse.Namespace, vae: Path, num: int
) -> tuple[Float[Tensor, "N 1 3 h w"], Tensor, Tensor]:
    """Draw front views and put them through the autoencoder."""
    views, *targets = draw_views(renders, options, stream("decoded", 0, seed=options.seed), num)
    return through_autoencoder(views[:, 0], vae, options.device)[:, None], *targets


def main() -> None:
    """Train and publish."""
    options = parser(__doc__, steps=None, batch_size=48)
    options.add_argument("--front", action="store_true", help="train the single-view sibling")
    options = parse(options)
    options.steps = options.steps or (FRONT_STEPS if options.front else STEPS)
    vae, decoded = options.output / "prior" / "vae", None
    if options.front:
        renders = load_or_render(options.cache, options.num_scenes, options.seed)
        decoded = decoded_views(renders, options, vae, NUM_DECODED)
        num_views, name, inputs = 1, "judge-front", [vae]
    else:
        renders = load_or_render(options.cache, NUM_CANONICAL, CANONICAL_SEED, canonical=True)
        num_views, name, inputs = NUM_VIEWS, "judge", []
    torch.manual_seed(options.seed + 1000)  # other initial weights than the guidance's networks
    networks = {"judge": JudgeNetwork(num_views)}
    trainer = Trainer(name, networks, options, learning_rate=1.5e-3, inputs=inputs)
    network = trainer.modules["judge"]

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = draw_views(renders, options, generator, options.batch_size)
        views, shapes, colors = drawn if decoded is None else some_of(decoded, drawn, generator)
        views = soften(views.flatten(0, 1), generator).view(views.shape).to(options.device)
        with mixed_precision(options.device):
            logits = network(views)
        shape, color = slot_loss(logits, (shapes, colors))
        return {"shape": shape, "color": color}

    trainer.fit(losses_of)
    Judge(trainer.averages["judge"]).save(options.output / name)


if __name__ == "__main__":
    main()
