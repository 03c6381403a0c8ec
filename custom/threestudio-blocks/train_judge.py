"""Train the judge, or with `--front` its single-view sibling for 2D pictures.

    python -m custom.threestudio-blocks.train_judge
    python -m custom.threestudio-blocks.train_judge --front

Its pictures are clean renders that are blurred, shifted, speckled and recoloured a little, so that
it also reads soft NeRF renders.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .augment import soften
from .batches import COLOR_NAMES, PictureBatch, colored_batch
from .captions import SHAPES, SLOTS
from .judge import BACKGROUND, EMPTY, Judge, JudgeNetwork
from .renders import NUM_VIEWS, Renders, load_or_render
from .training import Trainer, mixed_precision, parse, parser

EMPTY_SHARE = 0.05
GREY_SHARE = 0.5
"""NeRFs are judged on grey; samples of the prior come on any plain background."""
CANONICAL_SEED, NUM_CANONICAL = 101, 6000


def slot_targets(batch: PictureBatch) -> tuple[Tensor, Tensor]:
    """Class of shape and colour of every slot, `[N, slots]`; the colour of an empty slot is -100
    (ignored)."""
    shapes = torch.full((len(batch.captions), len(SLOTS)), EMPTY)
    colors = torch.full_like(shapes, -100)
    for row, caption in enumerate(batch.captions):
        for slot, solid in caption.slots.items():
            shapes[row, SLOTS.index(slot)] = SHAPES.index(solid.shape)
            colors[row, SLOTS.index(slot)] = COLOR_NAMES.index(solid.color)
    return shapes, colors


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
        batch = colored_batch(renders, rows[:, 0], generator)
        views = batch.images[torch.arange(num), rows[:, 1]][:, None]
    else:
        index = torch.randint(len(renders), (num,), generator=generator)
        plain = torch.rand(num, 3, generator=generator)
        grey = BACKGROUND + 0.08 * (torch.rand(num, 3, generator=generator) - 0.5)
        is_grey = torch.rand(num, 1, generator=generator) < GREY_SHARE
        batch = colored_batch(
            renders, index, generator, background=torch.where(is_grey, grey, plain)
        )
        views = batch.images
    shapes, colors = slot_targets(batch)
    empty = torch.rand(num, generator=generator) < EMPTY_SHARE
    views = torch.where(
        empty[:, None, None, None, None], views[..., :1, :1].expand_as(views), views
    )
    shapes[empty], colors[empty] = EMPTY, -100
    return views, shapes, colors


def main() -> None:
    """Train and publish."""
    options = parser(__doc__, steps=2000, batch_size=48)
    options.add_argument("--front", action="store_true", help="train the single-view sibling")
    options = parse(options)
    if options.front:
        renders, num_views, name = (
            load_or_render(options.cache, options.num_scenes, options.seed),
            1,
            "judge-front",
        )
    else:
        renders = load_or_render(options.cache, NUM_CANONICAL, CANONICAL_SEED, canonical=True)
        num_views, name = NUM_VIEWS, "judge"
    torch.manual_seed(options.seed + 1000)  # other initial weights than the guidance's networks
    trainer = Trainer(name, {"judge": JudgeNetwork(num_views)}, options, learning_rate=1.5e-3)
    network = trainer.modules["judge"]

    def losses_of(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        views, shapes, colors = draw_views(renders, options, generator, options.batch_size)
        views = soften(views.flatten(0, 1), generator).view(views.shape).to(options.device)
        with mixed_precision(options.device):
            shape_logits, color_logits = network(views)
        pairs = ((shape_logits, shapes), (color_logits, colors))
        losses = [
            F.cross_entropy(x.float().flatten(0, 1), y.flatten().to(options.device))
            for x, y in pairs
        ]
        return {"shape": losses[0], "color": losses[1]}

    trainer.fit(losses_of)
    Judge(trainer.averages["judge"]).save(options.output / name)


if __name__ == "__main__":
    main()
