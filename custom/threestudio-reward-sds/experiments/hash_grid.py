"""Measure the hash grid's C kernel against its torch version on a CPU.

    python custom/threestudio-reward-sds/experiments/hash_grid.py

prints one table from one run: seconds of the forward pass, of the gradient of the tables (points
are not differentiated, as in training), and of the gradients of tables and points (as for analytic
normals), and the largest difference of the results, as a share of the largest value. Both versions
take turns, and the best time of each counts. The grid is upstream's default one.
"""

import argparse
import functools
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from run import prepare

POINTS = 131_072
LEVELS = (8, 16)
REPEATS = 5
BACKENDS = ("torch", "auto")


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    prepare(parser.parse_args(argv).threads)
    if importlib.import_module("threestudio.models.networks.hash_kernel").kernel() is None:
        return 2  # the reason is logged
    sys.stdout.write(table(POINTS))
    return 0


def table(points: int) -> str:
    """Compare both for every number of levels and every pass."""
    lines = [
        f"{points:,} points.",
        "",
        "| levels | pass | torch | C kernel | largest difference |",
        "|---|---|---|---|---|",
    ]
    for levels in LEVELS:
        for name, (slow, expected), (fast, found) in measure(levels, points):
            lines.append(
                f"| {levels} | {name} | {slow:.3f} s | {fast:.3f} s (1/{slow / fast:.1f}) "
                f"| {difference(found, expected):.0e} |"
            )
    return "\n".join(lines) + "\n"


Timed = tuple[float, list[Any]]
"""Seconds and results."""


def measure(levels: int, points: int) -> list[tuple[str, Timed, Timed]]:
    """Time every pass; returns its name and what torch and the kernel gave."""
    torch = importlib.import_module("torch")
    networks = importlib.import_module("threestudio.models.networks")
    geometry = importlib.import_module("threestudio.models.geometry.implicit_volume")
    torch.manual_seed(0)
    grid = networks.HashGrid(3, {**geometry.default_encoding(), "n_levels": levels})
    torch.nn.init.normal_(grid.params)
    x, direction = torch.rand(points, 3), torch.randn(points, grid.n_output_dims)

    def forward(backend: str) -> Any:
        grid.backend = backend
        return grid(x)

    found = [("forward", *turns([lambda b=b: [forward(b)] for b in BACKENDS]))]
    for name, inputs in (("tables", [grid.params]), ("tables and points", [grid.params, x])):
        x.requires_grad_(len(inputs) > 1)
        backward = functools.partial(torch.autograd.grad, retain_graph=True)
        calls = [functools.partial(backward, forward(b), inputs, direction) for b in BACKENDS]
        found.append((name, *turns(calls)))
    return found


def turns(calls: list[Callable[[], Iterable[Any]]]) -> list[Timed]:
    """Make calls in turn, several times; returns the shortest time of each, and its results."""
    seconds: list[list[float]] = [[] for _ in calls]
    results: list[list[Any]] = [[] for _ in calls]
    for _ in range(REPEATS):
        for i, call in enumerate(calls):
            started = time.perf_counter()
            results[i] = list(call())
            seconds[i].append(time.perf_counter() - started)
    return [(min(times), result) for times, result in zip(seconds, results, strict=True)]


def difference(found: list[Any], expected: list[Any]) -> float:
    """Return the largest difference, as a share of the largest value of its tensor."""
    pairs = zip(found, expected, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
