"""Original MVDream checkpoints with random weights, and their sizes.

`TINY` makes files of some megabytes; `PUBLISHED` are the real sizes, to be used without memory.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from tests.helpers.original_shapes import Sizes, all_shapes

TINY_21 = Sizes(
    linear=True,
    width=64,
    multipliers=(1, 1, 2),
    attention=(True, True, False),
    num_blocks=1,
    vae_width=32,
    vae_multipliers=(1, 1, 2),
    vae_blocks=1,
    context=128,
    text_layers=3,
    vocabulary=514,
    positions=12,
)
TINY = {"2.1": TINY_21, "1.5": replace(TINY_21, linear=False, width=32, num_blocks=2)}
PUBLISHED_21 = Sizes(
    linear=True,
    width=320,
    multipliers=(1, 2, 4, 4),
    attention=(True, True, True, False),
    num_blocks=2,
    vae_width=128,
    vae_multipliers=(1, 2, 4, 4),
    vae_blocks=2,
    context=1024,
    text_layers=24,
    vocabulary=49408,
    positions=77,
)
PUBLISHED = {
    "2.1": PUBLISHED_21,
    "1.5": replace(PUBLISHED_21, linear=False, context=768, text_layers=12),
}


def random_state(sizes: Sizes) -> dict[str, Tensor]:
    """Draw weights that keep the variance, also where training starts from zeros."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in all_shapes(sizes).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "embedding" not in name:
            values /= values[0].numel() ** 0.5
        elif len(shape) == 1:  # of norms, and biases
            values = 0.2 * values + name.endswith("weight")
        state[name] = values
    return state


def save(sizes: Sizes, file: Path, changes: dict[str, Tensor | None] | None = None) -> str:
    """Save a random checkpoint; `changes` replace or add tensors, None removes one."""
    state = {**random_state(sizes), **(changes or {})}
    torch.save({name: value for name, value in state.items() if value is not None}, file)
    return str(file)
