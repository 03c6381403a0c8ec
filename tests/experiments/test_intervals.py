"""Paired, clustered differences, by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from intervals import Run, mean_interval, paired_difference, paired_p_value


def test_mean_and_counts_by_hand():
    """(100-0) and (100-100) on caption a, (0-100) on b: mean (100 + 0 - 100) / 3 = 0."""
    method = {Run("a", 0): 100.0, Run("a", 1): 100.0, Run("b", 0): 0.0}
    baseline = {Run("a", 0): 0.0, Run("a", 1): 100.0, Run("b", 0): 100.0}
    found = paired_difference(method, baseline)
    assert found.mean == pytest.approx(0.0)
    assert (found.clusters, found.pairs) == (2, 3)


def test_only_shared_pairs_count():
    """Seed 1 is missing in the method: only the pair of seed 0, 100 - 0, is left."""
    found = paired_difference({Run("a", 0): 100.0}, {Run("a", 0): 0.0, Run("a", 1): 100.0})
    assert (found.mean, found.pairs) == (100.0, 1)


def test_no_shared_pair_is_refused():
    with pytest.raises(ValueError, match="share no"):
        paired_difference({Run("a", 0): 1.0}, {Run("b", 0): 1.0})


def equal(value, captions=40):
    return {Run(f"{c:02}", s): value for c in range(captions) for s in range(3)}


@pytest.mark.parametrize(
    "value, low, high", [(0.0, 0, 8.81), (100.0, 91.19, 100), (50.0, 45.60, 54.40)]
)
def test_equal_captions_have_the_interval_of_clopper_and_pearson(value, low, high):
    """40 captions, 120 runs: 1 - 0.025^(1/40) = 8.81 %."""
    exact = binomtest(0, 40).proportion_ci(method="exact")
    assert 100 * exact.high == pytest.approx(8.81, abs=0.005)
    found = mean_interval(equal(value), (0, 100))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)
    assert (found.mean, found.clusters, found.pairs) == (value, 40, 120)


def test_equal_differences_may_be_as_different_as_the_limits_allow():
    """All of 40 captions gain 100 points: 8.81 % of others may lose as much, 100 - 2 x 8.81."""
    found = paired_difference(equal(100.0), equal(0.0), (-100, 100))
    assert (found.low, found.high) == pytest.approx((82.38, 100), abs=0.005)
    same = paired_difference(equal(100.0), equal(100.0), (-100, 100))
    assert (same.low, same.high) == pytest.approx((-8.81, 8.81), abs=0.005)
    assert same.text(1, "+") == "+0.0 [-8.8, +8.8]"


def test_one_caption_says_next_to_nothing():
    found = mean_interval(equal(100.0, captions=1), (0, 100))
    assert (found.low, found.high) == pytest.approx((2.5, 100))


def test_equal_values_without_limits_are_marked():
    found = paired_difference(equal(3.0), equal(1.0))
    assert found.text(2, "+") == "+2.00 [all equal]"


def test_seeds_of_a_caption_are_no_independent_evidence():
    """Repeating every run as more seeds of the same captions must not narrow the interval."""
    values = {"a": 100.0, "b": 0.0, "c": 100.0, "d": 0.0, "e": 100.0}
    few = {Run(c, 0): v for c, v in values.items()}
    many = {Run(c, s): v for c, v in values.items() for s in range(20)}
    one = paired_difference(few, dict.fromkeys(few, 0.0))
    twenty = paired_difference(many, dict.fromkeys(many, 0.0))
    assert (one.low, one.high) == pytest.approx((twenty.low, twenty.high))


def test_width_is_that_of_the_normal_approximation():
    """100 captions of 0 or 1 with p = 0.5: standard error 0.05, interval about +-0.098."""
    method = {Run(str(i), 0): float(i % 2) for i in range(100)}
    found = paired_difference(method, dict.fromkeys(method, 0.0))
    assert found.mean == 0.5
    np.testing.assert_allclose([found.low, found.high], [0.402, 0.598], atol=0.011)


def test_mean_interval_is_that_of_the_difference_to_nothing():
    values = {Run(c, 0): v for c, v in zip("abcd", (0.0, 0.0, 100.0, 100.0), strict=True)}
    found = mean_interval(values)
    assert (found.mean, found.clusters, found.pairs) == (50.0, 4, 4)
    assert found.low < 50 < found.high


def test_p_by_hand():
    """Five captions, all better: 2 of the 2^5 exchanges are as extreme, in either direction."""
    better = {Run(c, 0): 100.0 for c in "abcde"}
    assert paired_p_value(better, dict.fromkeys(better, 0.0)) == pytest.approx(2 / 32)
    assert paired_p_value(better, better) == 1.0


def test_p_takes_the_mean_over_the_seeds_of_a_caption():
    """More seeds of the same captions are no more evidence; losses of another seed count."""
    few = {Run(c, 0): 100.0 for c in "abcde"}
    many = {Run(c, s): 100.0 for c in "abcde" for s in range(20)}
    zeros = dict.fromkeys(many, 0.0)
    assert paired_p_value(many, zeros) == paired_p_value(few, zeros)
    mixed = {Run(c, s): 100.0 * (1 - 2 * s) for c in "abcde" for s in range(2)}
    assert paired_p_value(mixed, zeros) == 1.0


def test_p_of_a_clear_difference_of_many_captions_is_small_and_the_same_every_time():
    method = {Run(str(i), 0): 100.0 * (i < 30) for i in range(40)}
    zeros = dict.fromkeys(method, 0.0)
    first = paired_p_value(method, zeros)
    assert first < 1e-4 and paired_p_value(method, zeros) == first


def test_p_is_uniform_when_there_is_no_difference():
    """Of 200 coin-flip data sets about 5 % are below 0.05."""
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(200):
        pair = [
            {Run(str(i), 0): float(v) for i, v in enumerate(rng.integers(0, 2, 30))}
            for _ in range(2)
        ]
        below += paired_p_value(*pair, resamples=499) < 0.05
    assert below <= 20


def test_no_shared_pair_has_no_p():
    with pytest.raises(ValueError, match="no difference to test"):
        paired_p_value({Run("a", 0): 1.0}, {Run("b", 0): 1.0})


def crossed(by_batch):
    """12 captions x 2 seeds, six captions a batch: batches 0 and 1 of seed 0, 2 and 3 of seed 1."""
    return {
        Run(f"{c:02}", s, batch := 2 * s + c // 6): by_batch(batch, c)
        for s in range(2)
        for c in range(12)
    }


def test_batches_that_share_something_trained_are_the_clusters():
    """Batches 0 and 2, of the same captions, gain 100, the others nothing. By captions half of 12
    clusters gain, by batches half of 4: the interval is the wider one. p is the larger one: 8 of
    the 16 exchanges of batches leave the two that gain in one direction, of captions 2 of 2^6."""
    values = crossed(lambda batch, c: 100.0 * (batch % 2 == 0))
    alone = {Run(run.caption, run.seed): value for run, value in values.items()}
    zeros, nothing = dict.fromkeys(values, 0.0), dict.fromkeys(alone, 0.0)
    found, narrow = paired_difference(values, zeros), paired_difference(alone, nothing)
    assert (found.mean, found.clusters, narrow.clusters) == (50.0, 4, 12)
    assert found.low == 0 and found.high == 100 and 0 < narrow.low and narrow.high < 100
    assert paired_p_value(values, zeros) == pytest.approx(8 / 16)
    assert paired_p_value(alone, nothing) == pytest.approx(2 / 2**6)


def test_captions_count_where_batches_hide_them():
    """One caption of each batch gains, always the same two captions: batches are all alike."""
    values = crossed(lambda batch, c: 100.0 * (c % 6 == 0))
    zeros = dict.fromkeys(values, 0.0)
    found = paired_difference(values, zeros)
    assert found.low < found.mean < found.high
    assert paired_p_value(values, zeros) == pytest.approx(2 / 2**2)


def test_the_batch_of_either_method_counts():
    shared = crossed(lambda batch, c: 100.0 * (batch % 2 == 0))
    alone = {Run(run.caption, run.seed): 0.0 for run in shared}
    for pair in ((shared, alone), (alone, shared)):
        assert paired_difference(*pair).clusters == 4
