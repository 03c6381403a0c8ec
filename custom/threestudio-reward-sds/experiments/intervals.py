"""Paired differences between two methods with bootstrap intervals clustered by caption.

Seeds of one caption share its difficulty, so captions are resampled, not runs; both methods keep
their pairing.
"""

from dataclasses import dataclass

import numpy as np

Measured = dict[tuple[str, int], float]
"""(caption, seed) -> value of one run."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % percentile interval."""

    mean: float
    low: float
    high: float
    clusters: int
    """Captions."""
    pairs: int
    """Runs of each method that entered."""


def paired_difference(
    method: Measured, baseline: Measured, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of method minus baseline over the (caption, seed) pairs that both have.

    Args:
        method: Values of the method.
        baseline: Values of the baseline.
        resamples: Bootstrap samples of captions.
        seed: Seed of the resampling.

    Raises:
        ValueError: If no pair is shared.
    """
    shared = sorted(set(method) & set(baseline))
    if not shared:
        raise ValueError(
            "The two methods share no (caption, seed) pair, so there is no difference."
        )
    captions = sorted({caption for caption, _ in shared})
    index = {caption: i for i, caption in enumerate(captions)}
    sums, counts = np.zeros(len(captions)), np.zeros(len(captions))
    for key in shared:
        sums[index[key[0]]] += method[key] - baseline[key]
        counts[index[key[0]]] += 1
    draws = np.random.default_rng(seed).integers(len(captions), size=(resamples, len(captions)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(
        mean=float(sums.sum() / counts.sum()),
        low=float(low),
        high=float(high),
        clusters=len(captions),
        pairs=len(shared),
    )
