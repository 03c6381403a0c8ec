"""Stateless random streams: every draw of a run comes from a generator named by (seed, stream,
step, rank).

Nothing about randomness needs to be saved: a resumed run makes the same generators again.
Generators live on the CPU unless asked otherwise, so that a draw is the same on every machine; move
the result to the device.
"""

import hashlib
from typing import Optional, Union

import torch

from .logging import get_rank

MAX_SEED = 2**32
"""Seeds that a user gives are below this."""

_run_seed = 0


def set_run_seed(seed: int) -> None:
    """Set the seed that streams use when none is given; the launcher does it once per run."""
    global _run_seed
    _run_seed = int(seed)


def get_run_seed() -> int:
    """Return the seed that streams use when none is given."""
    return _run_seed


def stream(
    name: str,
    step: int,
    *,
    seed: Optional[int] = None,
    rank: Optional[int] = None,
    device: Union[str, torch.device] = "cpu",
) -> torch.Generator:
    """Make the generator of one stream at one step.

    Args:
        name: Who draws, e.g. `"camera"` or `"noise"`. Streams of different names are independent.
        step: Step, batch or item the draw belongs to, at least 0.
        seed: Seed of the run; None takes the one of `set_run_seed`.
        rank: Process, so that each one draws its own numbers; None takes the one of the
            environment.
        device: Device of the generator.
    """
    key = (
        _run_seed if seed is None else int(seed),
        name,
        int(step),
        get_rank() if rank is None else int(rank),
    )
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
