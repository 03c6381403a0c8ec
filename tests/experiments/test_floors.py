"""What was asked of a result before it was run."""

import pytest

from floors import check_floor, floor_name, floor_table
from tests.experiments.samples import row, two_methods


@pytest.fixture
def by_method():
    return two_methods()


@pytest.mark.parametrize(
    "limits, met",
    [
        ({"at_least": 50}, True),
        ({"at_least": 51}, False),
        ({"at_most": 49}, False),
        ({"at_least": 10, "lower_bound_at_least": 60}, False),
    ],
)
def test_difference_floors(by_method, limits, met):
    """75 - 25 = 50 points."""
    floor = {"measure": "relation", "method": "reward-sds", "minus": "sds", **limits}
    assert check_floor(by_method, floor)[1] is met


def test_unmet_floor_is_said_aloud(by_method):
    floors = [{"measure": "looks", "method": "reward-sds", "at_least": 80}]
    table = floor_table(by_method, floors, {"reward-sds": 4})
    assert "| looks: reward-sds at least 80 | 75.0 | **no** |" in table


def test_an_unfinished_floor_is_not_judged(by_method):
    floors = [{"measure": "looks", "method": "reward-sds", "at_least": 80}]
    table = floor_table(by_method, floors, {"reward-sds": 5})
    assert "| looks: reward-sds at least 80 | 4 of 5 runs are made | - |" in table


@pytest.mark.parametrize("p_below, met", [(0.6, True), (0.01, False)])
def test_a_floor_may_ask_for_a_p_value(by_method, p_below, met):
    """Both captions gain 50 points: either exchange of both is as extreme, 2 of 4."""
    floor = {"measure": "relation", "method": "reward-sds", "minus": "sds", "p_below": p_below}
    assert floor_name(floor) == f"relation: reward-sds minus sds p below {p_below}"
    found, is_met = check_floor(by_method, floor)
    assert found.endswith(", p = 0.5") and is_met is met


@pytest.mark.parametrize(
    "steps, met", [(["sds", "reward-sds", "all"], True), (["sds", "none", "all"], False)]
)
def test_a_floor_may_ask_for_the_first_step_to_be_the_biggest(by_method, steps, met):
    """25 %, 75 %, 100 %: the step of 50 comes before that of 25; and 25, 0, 100 has its last."""
    for name, relation in (("all", True), ("none", False)):
        by_method[name] = [row(name, r.caption, r.seed, relation) for r in by_method["sds"]]
    floor = {"measure": "relation", "steps": steps}
    assert check_floor(by_method, floor)[1] is met
    table = floor_table(by_method, [floor], {"sds": 4, "reward-sds": 4, "none": 4, "all": 5})
    assert "| 4 of 5 runs are made | - |" in table
