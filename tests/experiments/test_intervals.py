"""Paired, clustered differences, by hand."""

import numpy as np
import pytest

from intervals import paired_difference


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
