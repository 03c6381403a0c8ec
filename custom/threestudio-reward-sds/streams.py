"""Stateless random streams.

A stream is a fresh CPU generator seeded by (seed, name, step, rank), so nothing random has to be
saved and a resumed run repeats the uninterrupted one. Draw on the CPU, then move: the draws are
then the same on every device.

Scenes of a batch may have seeds of their own. There is a generator for each scene then, and what is
drawn for one does not depend on the others.
"""

import hashlib
from dataclasses import dataclass
from typing import Callable, List, Sequence, Union

import torch
from torch import Tensor

Generators = Union[torch.Generator, List[torch.Generator]]
"""One generator for a whole batch, or one for each of its scenes."""


def run_seed(rank: int) -> int:
    """Return the seed of the run, which is the same on every rank.

    An upstream launcher does not keep it; it seeds torch with the run's seed plus the rank.
    """
    try:
        from threestudio.utils.random import get_run_seed
    except ImportError:
        return torch.initial_seed() - rank
    return get_run_seed()


def stream_seed(seed: int, name: str, step: int, rank: int) -> int:
    """Mix the four coordinates of a stream into 32 bits (sha256, equal on every platform).

    Torch's CPU generator reads no more of a seed than its low 32 bits. Of n streams any two agree
    with a chance of about `n^2 / 2^33`: 1 % among the 10,000 steps of one stream, and harmless.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@dataclass(frozen=True)
class Streams:
    """Generators of one run on one rank: `streams("noise", step)`."""

    seed: int
    """The run's seed, the same on every rank."""
    rank: int = 0
    """Process index."""

    def __call__(self, name: str, step: int) -> torch.Generator:
        """Return the generator of stream `name` at `step`, always in the same state.

        Args:
            name: Who draws, e.g. "noise". Streams of different names are independent.
            step: Training step of the draw.
        """
        return torch.Generator().manual_seed(stream_seed(self.seed, name, step, self.rank))


@dataclass(frozen=True)
class SceneStreams:
    """Generators of G scenes, each with its own seed: `streams("noise", step)` returns G."""

    seeds: Sequence[int]
    """Seed of each scene."""

    def __call__(self, name: str, step: int) -> List[torch.Generator]:
        """Return the generators of stream `name` at `step`, the same on all ranks."""
        return [Streams(seed)(name, step) for seed in self.seeds]


def draw(
    make: Callable[..., Tensor], shape: Sequence[int], generators: Generators, scene_axis: int
) -> Tensor:
    """Draw numbers of a shape.

    Args:
        make: `(shape, generator=...) -> numbers`, such as `torch.randn`.
        shape: Shape of the result.
        generators: One for everything, or one for each scene, which draws its share.
        scene_axis: Axis along which the scenes are, each with the same share of it.
    """
    if isinstance(generators, torch.Generator):
        return make(tuple(shape), generator=generators)
    part = list(shape)
    part[scene_axis] //= len(generators)
    parts = [make(tuple(part), generator=generator) for generator in generators]
    return torch.cat(parts, dim=scene_axis)
