"""What an experiment's YAML asks of the result before it is run, and whether it came so."""

from collections.abc import Mapping
from itertools import pairwise
from statistics import fmean
from typing import Any

from measures import compare, measured, p_value, progress
from rows import Row


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
            verdict = "yes" if met else "**no**"
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
        "p_below": "p below",
    }
    asked = [f"{words[key]} {floor[key]}" for key in words if key in floor]
    minus = f" minus {floor['minus']}" if "minus" in floor else ""
    return f"{floor['measure']}: {floor['method']}{minus} {', '.join(asked)}"


def check_floor(by_method: dict[str, list[Row]], floor: dict[str, Any]) -> tuple[str, bool]:
    """Judge one floor: what was found, whether it is met."""
    if "steps" in floor:
        return _check_steps(by_method, floor)
    measure, rows = floor["measure"], by_method[floor["method"]]
    if "minus" not in floor:
        value = low = fmean(measured(rows, measure).values())
        found = f"{value:.1f}"
    else:
        baseline = by_method[floor["minus"]]
        interval = compare(rows, baseline, measure)
        value, low, found = interval.mean, interval.low, interval.text(1, "+")
    met = (
        floor.get("at_least", value) <= value <= floor.get("at_most", value)
        and floor.get("lower_bound_at_least", low) <= low
    )
    if "p_below" in floor:
        p = p_value(rows, baseline, measure)
        met, found = met and p < floor["p_below"], f"{found}, p = {p:.2g}"
    return found, met


def _check_steps(by_method: dict[str, list[Row]], floor: dict[str, Any]) -> tuple[str, bool]:
    """Judge whether the first of the steps between methods is the biggest."""
    pairs = list(pairwise(floor["steps"]))
    steps = [
        compare(by_method[after], by_method[before], floor["measure"]) for before, after in pairs
    ]
    means = [step.mean for step in steps]
    return ", ".join(step.text(1, "+") for step in steps), means[0] == max(means)
