"""Paired, clustered differences, by hand."""

import numpy as np
import pytest

from intervals import mean_interval, paired_difference, paired_p_value


def test_mean_and_counts_by_hand():
    """(100-0) and (100-100) on caption a, (0-100) on b: mean (100 + 0 - 100) / 3 = 0."""
    method = {("a", 0): 100.0, ("a", 1): 100.0, ("b", 0): 0.0}
    baseline = {("a", 0): 0.0, ("a", 1): 100.0, ("b", 0): 100.0}
    found = paired_difference(method, baseline)
    assert found.mean == pytest.approx(0.0)
    assert (found.clusters, found.pairs) == (2, 3)


def test_only_shared_pairs_count():
    """Seed 1 is missing in the method: only the pair of seed 0, 100 - 0, is left."""
    found = paired_difference({("a", 0): 100.0}, {("a", 0): 0.0, ("a", 1): 100.0})
    assert (found.mean, found.pairs) == (100.0, 1)


def test_no_shared_pair_is_refused():
    with pytest.raises(ValueError, match="share no"):
        paired_difference({("a", 0): 1.0}, {("b", 0): 1.0})


def test_equal_clusters_have_no_spread():
    method = {(c, s): 3.0 for c in "abcd" for s in range(3)}
    found = paired_difference(method, {key: 1.0 for key in method})
    assert (found.low, found.mean, found.high) == (2.0, 2.0, 2.0)


def test_seeds_of_a_caption_are_no_independent_evidence():
    """Repeating every run as more seeds of the same captions must not narrow the interval."""
    values = {"a": 100.0, "b": 0.0, "c": 100.0, "d": 0.0, "e": 100.0}
    few = {(c, 0): v for c, v in values.items()}
    many = {(c, s): v for c, v in values.items() for s in range(20)}
    one = paired_difference(few, dict.fromkeys(few, 0.0))
    twenty = paired_difference(many, dict.fromkeys(many, 0.0))
    assert (one.low, one.high) == pytest.approx((twenty.low, twenty.high))


def test_width_is_that_of_the_normal_approximation():
    """100 captions of 0 or 1 with p = 0.5: standard error 0.05, interval about +-0.098."""
    method = {(str(i), 0): float(i % 2) for i in range(100)}
    found = paired_difference(method, dict.fromkeys(method, 0.0))
    assert found.mean == 0.5
    np.testing.assert_allclose([found.low, found.high], [0.402, 0.598], atol=0.011)


def test_mean_interval_is_that_of_the_difference_to_nothing():
    values = {(c, 0): v for c, v in zip("abcd", (0.0, 0.0, 100.0, 100.0), strict=True)}
    found = mean_interval(values)
    assert (found.mean, found.clusters, found.pairs) == (50.0, 4, 4)
    assert found.low < 50 < found.high


def test_p_by_hand():
    """Five captions, all better: 2 of the 2^5 exchanges are as extreme, in either direction."""
    better = {(c, 0): 100.0 for c in "abcde"}
    assert paired_p_value(better, dict.fromkeys(better, 0.0)) == pytest.approx(2 / 32)
    assert paired_p_value(better, better) == 1.0


def test_p_takes_the_mean_over_the_seeds_of_a_caption():
    """More seeds of the same captions are no more evidence; losses of another seed count."""
    few = {(c, 0): 100.0 for c in "abcde"}
    many = {(c, s): 100.0 for c in "abcde" for s in range(20)}
    zeros = dict.fromkeys(many, 0.0)
    assert paired_p_value(many, zeros) == paired_p_value(few, zeros)
    mixed = {(c, s): 100.0 * (1 - 2 * s) for c in "abcde" for s in range(2)}
    assert paired_p_value(mixed, zeros) == 1.0


def test_p_of_a_clear_difference_of_many_captions_is_small_and_the_same_every_time():
    method = {(str(i), 0): 100.0 * (i < 30) for i in range(40)}
    zeros = dict.fromkeys(method, 0.0)
    first = paired_p_value(method, zeros)
    assert first < 1e-4 and paired_p_value(method, zeros) == first


def test_p_is_uniform_when_there_is_no_difference():
    """Of 200 coin-flip data sets about 5 % are below 0.05."""
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(200):
        pair = [
            {(str(i), 0): float(v) for i, v in enumerate(rng.integers(0, 2, 30))} for _ in range(2)
        ]
        below += paired_p_value(*pair, resamples=499) < 0.05
    assert below <= 20


def test_no_shared_pair_has_no_p():
    with pytest.raises(ValueError, match="no test"):
        paired_p_value({("a", 0): 1.0}, {("b", 0): 1.0})
