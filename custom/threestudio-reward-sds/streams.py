"""Stateless random streams.

A stream is a fresh CPU generator seeded by (seed, name, step, rank), so nothing random has to be
saved and a resumed run repeats the uninterrupted one. Draw on the CPU, then move: the draws are
then the same on every device.
"""

import hashlib
from dataclasses import dataclass

import torch


def stream_seed(seed: int, name: str, step: int, rank: int) -> int:
    """Mix the four coordinates of a stream into 63 bits (sha256, equal on every platform)."""
    digest = hashlib.sha256(f"{seed}/{name}/{step}/{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Streams:
    """Generators of one run on one rank: `streams("noise", step)`."""

    seed: int
    """The run's seed."""
    rank: int = 0
    """Process index; each rank draws its own numbers."""

    def __call__(self, name: str, step: int) -> torch.Generator:
        """Return the generator of stream `name` at `step`, always in the same state."""
        return torch.Generator().manual_seed(stream_seed(self.seed, name, step, self.rank))
