"""Streams are stateless: equal coordinates give equal draws, others do not."""

import hashlib
import sys

import torch

from tests.helpers.doubles import extension
from threestudio.utils import random

streams = extension("streams")


def draw(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(4, generator=generator)


def test_same_coordinates_give_the_same_numbers_whatever_happened_before():
    first = streams.Streams(seed=3)
    expected = draw(first("noise", 7))
    draw(first("noise", 6)), draw(first("timestep", 7)), torch.randn(5)
    assert torch.equal(draw(streams.Streams(seed=3)("noise", 7)), expected)


def test_every_coordinate_matters():
    base = draw(streams.Streams(0, 0)("noise", 0))
    for other in (
        streams.Streams(1, 0)("noise", 0),
        streams.Streams(0, 1)("noise", 0),
        streams.Streams(0, 0)("encode", 0),
        streams.Streams(0, 0)("noise", 1),
    ):
        assert not torch.equal(draw(other), base)


def test_the_seed_of_a_stream_is_fixed_for_good():
    """sha256("0/noise/0/0"): a change would silently change every published run."""
    expected = int(hashlib.sha256(b"0/noise/0/0").hexdigest()[:8], 16)
    assert streams.stream_seed(0, "noise", 0, 0) == expected


def test_the_cpu_generator_reads_32_bits_of_a_seed():
    """Why the mix has no more of them."""
    seed = streams.stream_seed(3, "noise", 7, 0)
    assert seed < 2**32
    same, other = (torch.Generator().manual_seed(s) for s in (seed + 2**32, seed ^ 2**31))
    assert torch.equal(draw(same), draw(torch.Generator().manual_seed(seed)))
    assert not torch.equal(draw(other), draw(torch.Generator().manual_seed(seed)))


def test_the_seed_of_the_run_is_the_same_on_every_rank(monkeypatch):
    """Torch is seeded with seed + rank by both launchers; only ours keeps the run's own."""
    monkeypatch.setattr(random, "get_run_seed", lambda: 7)
    assert streams.run_seed(rank=3) == 7
    monkeypatch.setitem(sys.modules, "threestudio.utils.random", None)  # as in an upstream checkout
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7 + 3)
        assert streams.run_seed(rank=3) == 7
