"""Paired differences between two methods: bootstrap intervals and a test, both clustered.

Seeds of one caption share its difficulty, so captions are resampled, not runs; both methods keep
their pairing. Runs that were trained together share what was trained: where there are such, their
batches are resampled, too. A caption is in several batches and a batch has several captions, so
neither holds the other: the interval reaches from the lower to the upper end of both, and p is the
larger one.

Clusters that are all equal leave a bootstrap without width, though the next one may differ. What is
known then is the share of clusters that may differ although none of n did: by Clopper and Pearson
at most `1 - 0.025 ** (1 / n)` at 95 %. The interval is that of a share so large that has the least
or the most possible value.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import permutation_test


@dataclass(frozen=True, order=True)
class Run:
    """What a value was measured on; the same for both methods of a pair, in whichever batch."""

    caption: str
    seed: int
    batch: Hashable = field(default=None, compare=False)
    """Runs with the same one share something trained; None: it shares nothing."""


Measured = dict[Run, float]
"""Values of one method."""
Limits = tuple[float, float] | None
"""Least and most possible value; None: there are none."""
TOLERANCE = 1e-9
"""Spread of values that are equal to rounding."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, which only equal values without limits leave no width."""

    mean: float
    low: float
    high: float
    clusters: int
    """Captions, or batches if they are fewer."""
    pairs: int
    """Runs of each method that entered."""

    def text(self, digits: int, sign: str = "") -> str:
        """Write mean and interval; "+" as the sign for a difference."""
        form = f"{sign}.{digits}f"
        if self.high - self.low < TOLERANCE:
            return f"{self.mean:{form}} [all equal]"
        return f"{self.mean:{form}} [{self.low:{form}}, {self.high:{form}}]"


def differences(method: Measured, baseline: Measured) -> Measured:
    """Method minus baseline, of the runs that both have.

    Raises:
        ValueError: If no run is shared.
    """
    theirs = {run: run for run in baseline}
    shared = [run for run in sorted(method) if run in theirs]
    if not shared:
        raise ValueError(
            "The two methods share no (caption, seed) pair, so there is no difference to test."
        )
    return {
        run if run.batch is not None else theirs[run]: method[run] - baseline[run] for run in shared
    }


def paired_difference(
    method: Measured,
    baseline: Measured,
    limits: Limits = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Mean of method minus baseline over the (caption, seed) pairs that both have.

    Args:
        method: Values of the method.
        baseline: Values of the baseline.
        limits: Of a difference.
        resamples: Bootstrap samples of clusters.
        seed: Seed of the resampling.

    Raises:
        ValueError: If no pair is shared.
    """
    return mean_interval(differences(method, baseline), limits, resamples, seed)


def mean_interval(
    values: Measured, limits: Limits = None, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean over all runs.

    Args:
        values: One or more.
        limits: Of a value.
        resamples: Bootstrap samples of clusters.
        seed: Seed of the resampling.
    """
    found = [
        _equal_ends(sums, counts, limits)
        if np.ptp(sums / counts) < TOLERANCE
        else _bootstrap(sums, counts, resamples, seed)
        for sums, counts in _clusterings(values)
    ]
    lows, highs, clusters = zip(*found, strict=True)
    return Interval(
        mean=sum(values.values()) / len(values),
        low=min(lows),
        high=max(highs),
        clusters=min(clusters),
        pairs=len(values),
    )


def paired_p_value(
    method: Measured, baseline: Measured, resamples: int = 99_999, seed: int = 0
) -> float:
    """Two-sided p of "the two methods are the same" (paired permutation test over clusters).

    Method and baseline are exchanged cluster by cluster; exact up to 16 clusters, random exchanges
    above. It tests the mean that the tables show, and needs no distribution: the values are shares
    of very few runs, mostly equal, on which Wilcoxon's ranks would be ties.

    Args:
        method: Values of the method.
        baseline: Values of the baseline.
        resamples: Random exchanges.
        seed: Seed of them.

    Raises:
        ValueError: If no pair is shared.
    """
    found = _clusterings(differences(method, baseline))
    return max(_exchange(sums, resamples, seed) for sums, _ in found)


def _clusterings(values: Measured) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return sum and number of values of each caption, and the same of batches if there are."""
    runs = sorted(values)
    labels = [[run.caption for run in runs]]
    if all(run.batch is not None for run in runs):
        labels.append([run.batch for run in runs])
    found = []
    for some in labels:
        _, index = np.unique(some, return_inverse=True)
        sums = np.bincount(index, weights=[values[run] for run in runs])
        found.append((sums, np.bincount(index)))
    return found


def _bootstrap(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[float, float, int]:
    """Return the ends of the percentile interval and the number of clusters."""
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high), len(sums)


def _equal_ends(sums: np.ndarray, counts: np.ndarray, limits: Limits) -> tuple[float, float, int]:
    """Return the same of clusters that have all the same mean."""
    mean = float(sums.sum() / counts.sum())
    least, most = limits or (mean, mean)
    share = unseen_share(len(sums))
    return mean - share * (mean - least), mean + share * (most - mean), len(sums)


def unseen_share(clusters: int) -> float:
    """Return the largest share of clusters that may differ though none of so many did, at 95 %."""
    return 1 - 0.025 ** (1 / clusters)


def _exchange(sums: np.ndarray, resamples: int, seed: int) -> float:
    if len(sums) < 2:
        return 1.0  # either exchange is as extreme as the other
    found = permutation_test(
        (sums, np.zeros_like(sums)),
        lambda x, y, axis: np.sum(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
