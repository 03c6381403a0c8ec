"""Measure what skipping empty space saves on a trained scene, against dense sampling.

    python custom/threestudio-reward-sds/experiments/pruning.py outputs/pruning

prints one table from one run: points at which the geometry is evaluated for the four canonical
views, seconds (best of three), and the largest difference of a colour. Dense sampling is the same
renderer with `grid_prune: false`. Matter that keeps less than `occupancy_threshold` of the light in
a step is not sampled, and where training prunes it, it is not trained away either: a scene whose
empty space is to be empty is trained with `prune_alpha_threshold=false` and a low threshold.

The occupancy grid forgets 5 % each time that it looks at a cell, so after a short training it still
holds much of the start. Before measuring it is updated, on the trained scene, as often as in the
rest of a training of usual length.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canonical import cameras
from plan import Evaluation
from run import prepare
from trained import load_run, only_run

SIZES = (64, 256)
REPEATS = 3
USUAL_STEPS = 10_000
"""Length of a usual training (MVDream's)."""


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder that holds one run")
    parser.add_argument("overrides", nargs="*", help="such as system.renderer.occupancy_margin=1")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    prepare(args.threads)
    try:
        system = load_run(only_run(args.folder), overrides=tuple(args.overrides)).system.eval()
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    settle(system.renderer, system.true_global_step)
    sys.stdout.write(table(system))
    return 0


def settle(renderer: Any, steps_done: int) -> None:
    """Update the occupancy grid until step `USUAL_STEPS`, the scene being what it is."""
    renderer.train()
    for step in range(steps_done, USUAL_STEPS):
        renderer.update_step(0, step)
    renderer.eval()


def table(system: Any) -> str:
    """Compare both ways at every size."""
    lines = [
        "| pixels | sampling | points | seconds | largest difference |",
        "|---|---|---|---|---|",
    ]
    for size in SIZES:
        pruned, dense = (measure(system, size, prune) for prune in (True, False))
        difference = (pruned["images"] - dense["images"]).abs().max().item()
        lines.append(f"| {size} | dense | {dense['points']:,} | {dense['seconds']:.2f} | |")
        lines.append(
            f"| {size} | pruned | {pruned['points']:,} "
            f"(1/{dense['points'] / pruned['points']:.1f}) | {pruned['seconds']:.2f} "
            f"(1/{dense['seconds'] / pruned['seconds']:.1f}) | {difference:.1e} |"
        )
    return "\n".join(lines) + "\n"


def measure(system: Any, size: int, prune: bool) -> dict[str, Any]:
    """Render the canonical views; returns colours, points evaluated, and seconds."""
    torch = importlib.import_module("torch")
    system.renderer.cfg.grid_prune = prune
    batches, seconds = cameras(Evaluation(), size), []
    for _ in range(REPEATS):
        with counted(system.geometry) as counts, torch.no_grad():
            started = time.perf_counter()
            images = torch.cat([system.renderer(**batch)["comp_rgb"] for batch in batches])
            seconds.append(time.perf_counter() - started)
    return {"images": images, "points": sum(counts), "seconds": min(seconds)}


@contextmanager
def counted(geometry: Any) -> Iterator[list[int]]:
    """Note the number of points of each call of a geometry."""
    counts: list[int] = []

    def counting(evaluate: Any) -> Any:
        def call(points: Any, **kwargs: Any) -> Any:
            counts.append(len(points))
            return evaluate(points, **kwargs)

        return call

    names = ("forward", "forward_density")
    for name in names:
        setattr(geometry, name, counting(getattr(geometry, name)))
    try:
        yield counts
    finally:
        for name in names:
            delattr(geometry, name)


if __name__ == "__main__":
    sys.exit(main())
