"""Groups of methods that the report of pictures compares."""

import dataclasses

import pytest

from groups import load_groups, shared_rows
from tests.experiments.samples import PICTURE

SPEC = {"title": "N", "kind": "curve", "baseline": "a", "methods": {"a": "1", "b": "3"}}


def row(method, caption, seed=0):
    return dataclasses.replace(PICTURE, method=method, caption=caption, seed=seed)


def test_only_pairs_that_all_methods_have_are_compared():
    (group,) = load_groups([SPEC], ["a", "b", "c"])
    rows = [row("a", "x"), row("a", "y"), row("a", "x", 1), row("b", "x"), row("c", "y")]
    assert shared_rows(group, rows) == {"a": [row("a", "x")], "b": [row("b", "x")]}


def test_a_method_that_has_not_begun_takes_nothing_from_the_others():
    (group,) = load_groups([SPEC], ["a", "b"])
    assert shared_rows(group, [row("a", "x")]) == {"a": [row("a", "x")]}
    assert shared_rows(group, []) == {}


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
