"""Paired differences between two methods: bootstrap intervals and a test, clustered by caption.

Seeds of one caption share its difficulty, so captions are resampled, not runs; both methods keep
their pairing.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import permutation_test

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

    def text(self, digits: int, sign: str = "") -> str:
        """Write mean and interval; "+" as the sign for a difference."""
        form = f"{sign}.{digits}f"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


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


def differences(method: Measured, baseline: Measured) -> Measured:
    """Method minus baseline, of the runs that both have."""
    return {run: value - baseline[run] for run, value in method.items() if run in baseline}


def mean_interval(values: Measured) -> Interval:
    """Mean over all runs, its interval clustered by caption as that of a difference.

    Raises:
        ValueError: If there is no run.
    """
    return paired_difference(values, dict.fromkeys(values, 0.0))


def paired_p_value(
    method: Measured, baseline: Measured, resamples: int = 99_999, seed: int = 0
) -> float:
    """Two-sided p of "the two methods are the same" (paired permutation test over captions).

    A caption's value is the mean over its seeds, and method and baseline are exchanged caption by
    caption; exact up to 16 captions, random exchanges above. It tests the mean that the tables
    show, and needs no distribution: the values are shares of very few runs, mostly equal, on which
    Wilcoxon's ranks would be ties.

    Args:
        method: Values of the method.
        baseline: Values of the baseline.
        resamples: Random exchanges.
        seed: Seed of them.

    Raises:
        ValueError: If no pair is shared.
    """
    shared = sorted(set(method) & set(baseline))
    if not shared:
        raise ValueError("The two methods share no (caption, seed) pair, so there is no test.")
    differences: dict[str, list[float]] = {}
    for key in shared:
        differences.setdefault(key[0], []).append(method[key] - baseline[key])
    means = np.array([np.mean(values) for values in differences.values()])
    if len(means) < 2:
        return 1.0  # either exchange is as extreme as the other
    found = permutation_test(
        (means, np.zeros_like(means)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
