"""What is measured of a run, and how methods compare in it."""

from collections.abc import Iterable, Mapping

from intervals import (
    Interval,
    Limits,
    Measured,
    Run,
    mean_interval,
    paired_difference,
    paired_p_value,
)
from rows import Row

MEASURES = {
    "relation": lambda row: 100.0 * row.relation_ok,
    "looks": lambda row: 100.0 * row.looks_ok,
    "all": lambda row: 100.0 * (row.relation_ok and row.looks_ok),
    "reward": lambda row: row.reward,
    "outside": lambda row: 100.0 * row.outside,
}
"""Name -> value of a row; all but the reward are percentages when averaged. The last one is what an
edit changed outside of where it should."""


def measured(rows: Iterable[Row], measure: str) -> Measured:
    """Values of a measure by caption and seed."""
    return {Run(row.caption, row.seed, row.batch): MEASURES[measure](row) for row in rows}


def limits(measure: str, least: float, most: float) -> Limits:
    """Return what is possible, in points from shares; a reward has no limits."""
    return None if measure == "reward" else (100.0 * least, 100.0 * most)


def average(rows: list[Row], measure: str) -> Interval:
    """Mean of a method in one measure."""
    return mean_interval(measured(rows, measure), limits(measure, 0, 1))


def compare(rows: list[Row], baseline: list[Row], measure: str) -> Interval:
    """Difference of two methods in one measure, over the runs that both have."""
    pair = measured(rows, measure), measured(baseline, measure)
    return paired_difference(*pair, limits(measure, -1, 1))


def p_value(rows: list[Row], baseline: list[Row], measure: str) -> float:
    """p of "the two methods are the same in this measure", over the runs that both have."""
    return paired_p_value(measured(rows, measure), measured(baseline, measure))


def progress(
    by_method: Mapping[str, list[Row]], methods: Iterable[str], planned: Mapping[str, int]
) -> str:
    """Say how far the method is that lacks most runs; nothing if all of them are made.

    Args:
        by_method: Rows of each method.
        methods: The ones to look at.
        planned: How many rows each method will have.
    """
    made = {method: len(by_method.get(method, [])) for method in methods}
    least = min(made, key=lambda method: made[method] - planned[method])
    if made[least] == planned[least]:
        return ""
    return f"{made[least]} of {planned[least]} runs are made"
