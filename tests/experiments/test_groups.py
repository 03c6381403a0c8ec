"""Groups of methods that the report of pictures compares."""

import dataclasses

import pytest

from groups import comparable, load_groups, rows_of
from tests.experiments.samples import PICTURE

SPEC = {"title": "N", "kind": "curve", "baseline": "a", "methods": {"a": "1", "b": "3"}}


def row(method, caption, seed=0):
    return dataclasses.replace(PICTURE, method=method, caption=caption, seed=seed)


def test_rows_are_sorted_by_method_and_one_that_has_not_begun_is_left_out():
    (group,) = load_groups([SPEC], ["a", "b", "c"])
    rows = [row("a", "x"), row("c", "y"), row("a", "y")]
    assert rows_of(group, rows) == {"a": [rows[0], rows[2]]}
    assert rows_of(group, [row("c", "y")]) == {}


def test_an_ablation_is_of_the_runs_that_all_its_methods_have():
    (curve,) = load_groups([SPEC], ["a", "b"])
    more, fewer = [row("a", "x"), row("a", "x", 1), row("a", "y")], [row("b", "x"), row("b", "z")]
    by_method = {"a": more, "b": fewer}
    assert comparable(curve, by_method) == {"a": more[:1], "b": fewer[:1]}
    assert comparable(curve, {"a": more, "b": fewer[1:]}) == {}
    family = dataclasses.replace(curve, kind="family", reward="b")
    assert comparable(family, by_method) == by_method


def test_a_family_tests_its_controls_against_the_baseline_and_the_reward_version():
    methods = {"mean": "mean", "a": "A", "reward": "R", "long": "A, long"}
    spec = {**SPEC, "kind": "family", "reward": "reward", "methods": methods}
    (family,) = load_groups([spec], methods)
    assert family.pairs == [
        ("mean", "a"),
        ("reward", "a"),
        ("long", "a"),
        ("reward", "mean"),
        ("reward", "long"),
    ]
    assert family.opponents == ["a", "mean", "long"]
    (curve,) = load_groups([SPEC], ["a", "b"])
    assert curve.pairs == [("b", "a")]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"methods": {"a": "1", "z": "3"}}, "'z'"),
        ({"baseline": "c"}, "'c'"),
        ({"kind": "family"}, "reward version"),
        ({"kind": "table"}, "family, ablation, curve"),
        ({"reward": "b"}, "reward version"),
        ({"colour": "red"}, "nothing else"),
    ],
)
def test_wrong_groups_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load_groups([{**SPEC, **change}], ["a", "b", "c"])
