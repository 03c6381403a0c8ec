"""Measure what a RewardVSD step costs over a VSD step, and that `chunk_size` bounds its memory.

    python custom/threestudio-reward-sds/experiments/benchmark_vsd.py

prints one markdown table, all of it from one run. A step is rendering, guidance (the adapter's loss
included) and backward pass on the blocks configs, with one-step previews. Cases take turns step by
step, and times on a CPU are CPU time, so that other work on the machine matters little.
"""

import argparse
import statistics
import sys
from functools import partial
from typing import Any

from benchmark import WARM_UP, build, guide_by_config, step, to_device
from measuring import peak_megabytes, timed
from run import prepare

VSD = "custom/threestudio-reward-sds/configs/blocks-mvdream-vsd.yaml"
REWARD = "custom/threestudio-reward-sds/configs/blocks-mvdream-reward-vsd.yaml"
CANDIDATES = (1, 4, 7, 10)
CHUNKS = (4, 16, 64)

Case = tuple[int, int]
"""N and `chunk_size`; N = 0 is VSD."""
Found = dict[str, float]


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=CANDIDATES, metavar="N")
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, metavar="SIZE")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per case")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    args = parser.parse_args(argv)
    prepare(args.threads)
    cases = [(n, chunk) for n in (0, *args.candidates) for chunk in args.chunks]
    sys.stdout.write(table(measure(cases, args.steps)))
    return 0


def measure(cases: list[Case], steps: int) -> dict[Case, Found]:
    """Return median seconds, network images and peak memory in MB of a step of each case."""
    systems = {case: build(*_config(*case)) for case in cases}
    seconds: dict[Case, list[float]] = {case: [] for case in cases}
    images, megabytes = {}, {}
    for index in range(WARM_UP + steps):
        sys.stderr.write(f"step {index + 1}/{WARM_UP + steps}\n")
        for case, (system, dataset) in systems.items():
            taken, images[case] = timed(_step(system, dataset), system.device)
            seconds[case].append(taken)
            system.do_update_step(0, index + 1)
    for case, (system, dataset) in systems.items():
        megabytes[case] = peak_megabytes(_step(system, dataset), system.device)
    return {
        case: {
            "seconds": statistics.median(seconds[case][WARM_UP:]),
            "images": images[case],
            "megabytes": megabytes[case],
        }
        for case in cases
    }


def _config(candidates: int, chunk_size: int) -> tuple[str, list[str]]:
    chunk = f"system.guidance.chunk_size={chunk_size}"
    if candidates == 0:
        return VSD, [chunk]
    counts = {"n_noises": candidates, "preview_steps": 1, "sheet_every": 0}
    return REWARD, [chunk, *(f"system.guidance.{key}={count}" for key, count in counts.items())]


def _step(system: Any, dataset: Any) -> Any:
    batch = to_device(dataset.collate([]), system.device)
    return partial(step, system, batch, guide_by_config)


def table(found: dict[Case, Found]) -> str:
    """Write the measurements as markdown; times as multiples of the VSD step of the same chunk."""
    chunks = list(dict.fromkeys(chunk for _, chunk in found))
    seconds = ", ".join(f"{found[0, chunk]['seconds']:.3f} s ({chunk})" for chunk in chunks)
    heads = [f"{what}: {chunk}" for what in ("time", "MB") for chunk in chunks]
    lines = [
        f"VSD: {seconds} a step, {found[0, chunks[0]]['images']:.0f} network images.",
        "",
        f"| method | N | network images | {' | '.join(heads)} |",
        "|---" * (3 + len(heads)) + "|",
    ]
    for n in dict.fromkeys(n for n, _ in found):
        row = [found[n, chunk] for chunk in chunks]
        times = [f"x{found[n, c]['seconds'] / found[0, c]['seconds']:.2f}" for c in chunks]
        cells = [*times, *(f"{case['megabytes']:.1f}" for case in row)]
        name = f"RewardVSD | {n}" if n else "VSD | "
        lines.append(f"| {name} | {row[0]['images']:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
