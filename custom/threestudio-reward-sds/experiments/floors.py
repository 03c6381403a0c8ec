"""What an experiment's YAML asks of the result before it is run, and whether it came so."""

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

from intervals import (
    Interval,
    differences,
    mean_interval,
    paired_difference,
    unseen_share,
)
from measures import compare, limits, measured, p_value, progress
from rows import Row

MET = {True: "yes", False: "**no**", None: "undecided"}


def floor_table(
    by_method: dict[str, list[Row]], floors: list[dict[str, Any]], planned: Mapping[str, int]
) -> str:
    """Compare the result with what the experiment's YAML asks for, once all its runs are made.

    Args:
        by_method: Rows of each method.
        floors: What is asked.
        planned: How many rows each method will have.
    """
    lines = ["| asked | found | met |", "|---|---|---|"]
    for floor in floors:
        methods = floor_methods(floor)
        if not set(methods) <= set(by_method):
            continue
        found, verdict = progress(by_method, methods, planned), "-"
        if not found:
            found, met = check_floor(by_method, floor)
            verdict = MET[met]
        lines.append(f"| {floor_name(floor)} | {found} | {verdict} |")
    return "\n".join(lines)


def floor_methods(floor: dict[str, Any]) -> list[str]:
    """List the methods that a floor is about."""
    return floor.get("steps") or [floor[key] for key in ("method", "minus") if key in floor]


def floor_name(floor: dict[str, Any]) -> str:
    """Say in words what a floor asks."""
    if "steps" in floor:
        return f"{floor['measure']}: the first step of {', '.join(floor['steps'])} is the biggest"
    words = {
        "at_least": "at least",
        "at_most": "at most",
        "lower_bound_at_least": "lower bound at least",
        "equal_within": "equal within",
        "p_below": "p below",
    }
    asked = [f"{words[key]} {floor[key]}" for key in words if key in floor]
    minus = f" minus {floor['minus']}" if "minus" in floor else ""
    return f"{floor['measure']}: {floor['method']}{minus} {', '.join(asked)}"


def check_floor(by_method: dict[str, list[Row]], floor: dict[str, Any]) -> tuple[str, bool | None]:
    """Judge one floor: what was found, whether it is met; None where the interval leaves it open.

    `at_least` and `at_most` are about the mean, `lower_bound_at_least` about the lower end of its
    interval. `equal_within` a margin is failed by an interval outside of it, and met by one inside,
    if there are so many captions that, were such a share of them different, one would have shown;
    the measure is one in percent.
    """
    if "steps" in floor:
        return _check_steps(by_method, floor)
    measure, rows = floor["measure"], by_method[floor["method"]]
    if "minus" not in floor:
        value = fmean(measured(rows, measure).values())
        return f"{value:.1f}", _within_limits(floor, value, value)
    baseline = by_method[floor["minus"]]
    interval = compare(rows, baseline, measure)
    found, results = interval.text(1, "+"), [_within_limits(floor, interval.mean, interval.low)]
    if "equal_within" in floor:
        results.append(_equal(interval, floor["equal_within"]))
    if "p_below" in floor:
        p = p_value(rows, baseline, measure)
        results.append(p < floor["p_below"])
        found = f"{found}, p = {p:.2g}"
    return found, _all(results)


def _within_limits(floor: dict[str, Any], value: float, low: float) -> bool:
    return (
        floor.get("at_least", value) <= value <= floor.get("at_most", value)
        and floor.get("lower_bound_at_least", low) <= low
    )


def _equal(interval: Interval, margin: float) -> bool | None:
    if -margin <= interval.low and interval.high <= margin:
        return True if 100 * unseen_share(interval.clusters) <= margin else None
    return False if interval.low > margin or interval.high < -margin else None


def _all(results: list[bool | None]) -> bool | None:
    """Return False if one of them is, else None if one of them is."""
    return False if False in results else None if None in results else True


def _check_steps(by_method: dict[str, list[Row]], floor: dict[str, Any]) -> tuple[str, bool | None]:
    """Judge whether the first of the steps between methods is the biggest.

    It is if it is above 0 and above every later one by the whole interval, and is not if it is
    below one of them so; between the two, as for a tie, it is undecided.
    """
    measure = floor["measure"]
    values = [measured(by_method[method], measure) for method in floor["steps"]]
    steps = [differences(after, before) for before, after in pairwise(values)]
    found = [mean_interval(step, limits(measure, -1, 1)) for step in steps]
    margins = [paired_difference(steps[0], later, limits(measure, -2, 2)) for later in steps[1:]]
    words = [", ".join(i.text(1, "+") for i in some) for some in (found, margins)]
    results = [_positive(interval) for interval in (found[0], *margins)]
    return "; the first minus each later one: ".join(words), _all(results)


def _positive(interval: Interval) -> bool | None:
    return True if interval.low > 0 else False if interval.high < 0 else None
