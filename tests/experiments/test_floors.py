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


def rates(captions=40, **right):
    """Rows of methods on captions of which the first so many are right."""
    return {
        name: [row(name, f"caption {i}", 0, i < count) for i in range(captions)]
        for name, count in right.items()
    }


@pytest.mark.parametrize(
    "right, margin, met",
    [(21, 10, True), (21, 2, None), (26, 10, None), (40, 10, False), (0, 10, False)],
)
def test_equal_is_what_the_interval_says(right, margin, met):
    """Of 40 captions 20 are right. One more is +2.5 [0, 7.5] points: within 10, but not within 2;
    six more reach beyond 10, all or none are beyond with the whole interval."""
    floor = {"measure": "all", "method": "b", "minus": "a", "equal_within": margin}
    assert floor_name(floor) == f"all: b minus a equal within {margin}"
    assert check_floor(rates(a=20, b=right), floor)[1] is met


@pytest.mark.parametrize("captions, met", [(28, None), (35, None), (36, True), (40, True)])
@pytest.mark.parametrize("right", [0, 1])
def test_few_captions_cannot_be_shown_equal_however_they_agree(captions, met, right):
    """None of n differs, or one: 1 - 0.025^(1/n) is below 10 % from 36 on."""
    floor = {"measure": "all", "method": "b", "minus": "a", "equal_within": 10}
    assert check_floor(rates(captions, a=0, b=right), floor)[1] is met


def test_an_undecided_floor_is_called_so():
    floor = {"measure": "all", "method": "b", "minus": "a", "equal_within": 10}
    by_method = rates(a=20, b=26)
    assert "| undecided |" in floor_table(by_method, [floor], dict.fromkeys(by_method, 40))
    both = {**floor, "at_least": 20}
    assert check_floor(by_method, both)[1] is False


@pytest.mark.parametrize(
    "right, met",
    [
        ({"one": 4, "three": 32, "seven": 34, "ten": 35}, True),
        ({"one": 4, "three": 8, "seven": 36, "ten": 36}, False),
        ({"one": 30, "three": 10, "seven": 5, "ten": 5}, False),
        ({"one": 4, "three": 20, "seven": 36, "ten": 36}, None),
        ({"one": 4, "three": 5, "seven": 5, "ten": 5}, None),
        ({"one": 4, "three": 4, "seven": 4, "ten": 4}, None),
    ],
)
def test_the_first_step_is_the_biggest_if_the_intervals_say_so(right, met):
    """Clearly; clearly not; the first step leads down; a tie; one caption more; no step at all."""
    floor = {"measure": "all", "steps": list(right)}
    assert check_floor(rates(**right), floor)[1] is met


def test_steps_show_the_first_minus_each_later_one():
    """10 %, 80 %, 85 %: steps of 70 and 5, which are 65 apart."""
    floor = {"measure": "all", "steps": ["one", "three", "seven"]}
    found, _ = check_floor(rates(one=4, three=32, seven=34), floor)
    steps, margin = found.split("; the first minus each later one: ")
    assert steps.startswith("+70.0 [") and ", +5.0 [" in steps and margin.startswith("+65.0 [")


def test_steps_are_judged_when_all_their_methods_are_finished():
    floor = {"measure": "all", "steps": ["one", "three"]}
    table = floor_table(rates(one=4, three=8), [floor], {"one": 40, "three": 50})
    assert "| 40 of 50 runs are made | - |" in table
