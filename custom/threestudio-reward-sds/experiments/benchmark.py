"""Measure what a RewardSDS step costs over an SDS step: time, network images, memory.

Called without arguments it prints one markdown table, all of it from one run. Every case is a
process of its own, one after the other; a step is rendering, guidance and backward pass on the
blocks configs. `loop` is the same step with one candidate at a time, as in the official release:
nothing batched, the preview's first prediction not kept, every candidate differentiated.
"""

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from run import load_extensions, prepare

SDS = "custom/threestudio-reward-sds/configs/blocks-mvdream-sds.yaml"
REWARD = "custom/threestudio-reward-sds/configs/blocks-mvdream-reward-sds.yaml"
SCENE = (
    "data.batch_size=4",
    "data.width=64",
    "data.height=64",
    "data.resolution_milestones=[]",
    "system.prompt_processor.prompt=a red cube on the left of a blue sphere",
)
WARM_UP = 2
"""Steps that are not measured."""


def main(argv: list[str] | None = None) -> int:
    """Print the table, or with `--case` the measurement of one case as JSON."""
    args = _parse_arguments(argv)
    prepare(args.threads)
    if args.case:
        kind, candidates, previews = args.case.split(",")
        sys.stdout.write(json.dumps(measure(kind, int(candidates), int(previews), args.steps)))
        return 0
    cases = [("sds", 1, 0)]
    for candidates in args.candidates:
        for previews in args.previews:
            cases += [(kind, candidates, previews) for kind in ("batched", "loop")]
    found = {}
    for index, case in enumerate(cases):
        sys.stderr.write(f"{index + 1}/{len(cases)} {case[0]} N={case[1]} S={case[2]}\n")
        found[case] = _measure_apart(case, args)
    sys.stdout.write(table(found, args.candidates, args.previews))
    return 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4, 7, 10], metavar="N")
    parser.add_argument("--previews", type=int, nargs="+", default=[1, 4, 15], metavar="S")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per case")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _measure_apart(case: tuple[str, int, int], args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", ",".join(map(str, case))]
    command += ["--steps", str(args.steps), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"The case {case} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(kind: str, candidates: int, previews: int, steps: int) -> dict[str, float]:
    """Measure one case in this process.

    Args:
        kind: "sds" (the baseline), "batched" (the guidance as it is) or "loop".
        candidates: N.
        previews: S.
        steps: Measured steps.

    Returns:
        Median seconds and network images of a step; peak memory in MB above what was in use before
        the first step.
    """
    system, dataset = build(*_case(kind, candidates, previews))
    system.guidance.load_reward()
    guide = one_at_a_time if kind == "loop" and candidates > 1 else guide_by_config
    before = _peak_mb(system.device)
    seconds, images = [], []
    for index in range(WARM_UP + steps):
        batch = to_device(dataset.collate([]), system.device)
        started = time.perf_counter()
        images.append(step(system, batch, guide))
        seconds.append(time.perf_counter() - started)
        system.do_update_step(0, index + 1)
    return {
        "seconds": statistics.median(seconds[WARM_UP:]),
        "images": statistics.median(images[WARM_UP:]),
        "megabytes": _peak_mb(system.device) - before,
    }


def _case(kind: str, candidates: int, previews: int) -> tuple[str, list[str]]:
    """Return config and overrides of a case."""
    if kind == "sds":
        return SDS, []
    counts = {"n_noises": candidates, "preview_steps": previews, "sheet_every": 0}
    return REWARD, [f"system.guidance.{key}={count}" for key, count in counts.items()]


def build(config_file: str, overrides: Sequence[str]) -> tuple[Any, Any]:
    """Build the system of a config on the best device, and its training cameras."""
    load_extensions()
    torch = importlib.import_module("torch")
    threestudio = importlib.import_module("threestudio")
    merge = importlib.import_module("threestudio.utils.config").merge_configs
    config = merge(config_file, cli_args=[*SCENE, *overrides])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    system = threestudio.find(config.system_type)(config.system).to(device)
    data = threestudio.find(config.data_type)(config.data)
    data.setup("fit")
    system.train()
    system.do_update_step(0, 0)
    return system, data.train_dataset


Guide = Callable[[Any, Any, dict[str, Any]], tuple[Any, float]]
"""(system, render, batch) -> (loss, network images)."""


def step(system: Any, batch: dict[str, Any], guide: Guide) -> float:
    """Make one training step without the optimiser; returns its network images."""
    loss, images = guide(system, system(batch)["comp_rgb"], batch)
    loss.backward()
    system.zero_grad(set_to_none=True)
    return float(images)


def guide_by_config(system: Any, render: Any, batch: dict[str, Any]) -> tuple[Any, float]:
    """Call the guidance as it is."""
    out = system.guidance(render, system.prompt_utils, **batch)
    return total_loss(out), out["unet_calls"]


def total_loss(out: dict[str, Any]) -> Any:
    """Return the sum of what a guidance has to minimise."""
    return sum(value for name, value in out.items() if name.startswith("loss_"))


def one_at_a_time(system: Any, render: Any, batch: dict[str, Any]) -> tuple[Any, float]:
    """Do what the guidance does with a reward, candidate after candidate, without sharing anything;
    for objectives without losses of their own."""
    torch = importlib.import_module("torch")
    parts = importlib.import_module("threestudio-reward-sds.guidance")
    guidance, prompt_utils = system.guidance, system.prompt_utils
    cameras = parts.Cameras(
        batch["elevation"], batch["azimuth"], batch["camera_distances"], batch["c2w"]
    )
    latents = guidance.prior.encode(render, guidance._stream("encode"))
    z = latents.detach()
    denoiser = guidance.prior.bind(prompt_utils, cameras, guidance.cfg.chunk_size)
    denoiser = guidance.objective.conditioned(denoiser)
    prompts = parts.reward_prompts(prompt_utils, cameras, guidance.cfg.reward_view_dependent)
    noise = guidance._stream("noise")
    rewards, gradients = [], []
    with torch.no_grad():
        t = guidance._timesteps(z)
        for _ in range(guidance.cfg.n_noises):
            one = guidance.search.propose(z, t, 1, denoiser, noise)
            rewards.append(guidance._score(guidance.search.preview(one, denoiser), prompts))
            again = parts.Candidates(one.noise, one.noisy, t)
            mask = torch.ones(1, len(t), dtype=torch.bool, device=z.device)
            gradients.append(guidance.objective.gradient(z, again, denoiser, mask))
        weights = guidance.strategy(torch.cat(rewards), guidance._stream("strategy"))
        gradient = guidance._bounded(parts.combine(weights, torch.cat(gradients)))
    return parts.surrogate_loss(latents, gradient), denoiser.images_evaluated


def to_device(batch: dict[str, Any], device: Any) -> dict[str, Any]:
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}


def _peak_mb(device: Any) -> float:
    torch = importlib.import_module("torch")
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def table(
    found: dict[tuple[str, int, int], dict[str, float]], candidates: list[int], previews: list[int]
) -> str:
    """Write the measurements as markdown; times and images as multiples of the SDS step."""
    base = found["sds", 1, 0]
    lines = [
        f"SDS: {base['seconds']:.3f} s a step, {base['images']:.0f} network images, "
        f"{base['megabytes']:.0f} MB.",
        "",
        "| N | S | time | network images | MB | loop: time | loop: network images | loop: MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for n in candidates:
        for s in previews:
            cells = [
                f"x{case['seconds'] / base['seconds']:.2f} | x{case['images'] / base['images']:.0f}"
                f" | {case['megabytes']:.0f}"
                for case in (found["batched", n, s], found["loop", n, s])
            ]
            lines.append(f"| {n} | {s} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
