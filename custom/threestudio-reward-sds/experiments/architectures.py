"""Measure steps of score distillation in the sizes of Stable Diffusion 2.1 and MVDream, on a GPU.

    python custom/threestudio-reward-sds/experiments/architectures.py

prints one markdown table for the CUDA device. The networks are in half precision and have random
weights: nothing is downloaded, and 5 GB are saved in a temporary folder. Timed are guidance (the
adapter's loss included) and backward pass to the render of one scene, which is a random picture of
the given size; rendering is not. `--tiny` tries the command with small networks, also on a CPU.
"""

import argparse
import gc
import importlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark import WARM_UP, to_device, total_loss
from measuring import peak_megabytes, timed
from random_models import ARCHITECTURES, Architecture, random_prompt, save_prior, save_reward
from run import load_extensions, prepare


@dataclass(frozen=True)
class Method:
    """What is measured of an architecture."""

    name: str
    guidance: str
    candidates: int = 1
    previews: int = 1


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    architecture: str
    method: Method
    pixels: int
    seconds: float
    images: int
    networks: float
    """Gigabytes of the weights."""
    peak: float
    """Gigabytes above them."""


def main(argv: list[str] | None = None) -> int:
    """Print the table; exit code 2 without a CUDA device."""
    args = _parse_arguments(argv)
    prepare(threads=1)
    load_extensions()
    device = importlib.import_module("threestudio.utils.misc").get_device()
    if device.type != "cuda" and not args.tiny:
        sys.stderr.write("This needs a CUDA device. Add --tiny to try it with small networks.\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(table(list(measure(Path(folder), device, args)), _name(device)))
    return 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, default=7, metavar="N", help="of RewardSDS, VSD")
    parser.add_argument("--previews", type=int, nargs="+", default=[1, 4, 15], metavar="S")
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 256], help="of the render")
    parser.add_argument("--chunk-size", type=int, default=16, help="images per network call")
    parser.add_argument("--steps", type=int, default=5, help="measured steps per case")
    parser.add_argument("--tiny", action="store_true", help="small networks")
    return parser.parse_args(argv)


def _name(device: Any) -> str:
    if device.type != "cuda":
        return "CPU"
    return importlib.import_module("torch").cuda.get_device_name(device)


def methods(candidates: int, previews: list[int]) -> list[Method]:
    """List the baselines, each followed by its rewarded form."""
    found = []
    for name in ("SDS", "VSD"):
        guidance = f"reward-{name.lower()}-guidance"
        found.append(Method(name, guidance))
        found += [Method(f"Reward{name}", guidance, candidates, s) for s in previews]
    return found


def measure(folder: Path, device: Any, args: argparse.Namespace) -> Iterator[Row]:
    """Save each model once, and measure all methods with it."""
    reward = save_reward(folder / "reward", device, args.tiny)
    for name, architecture in ARCHITECTURES.items():
        prior = save_prior(folder / architecture.prior, architecture, device, args.tiny)
        for method in methods(args.candidates, args.previews):
            sys.stderr.write(f"{name}: {method.name} N={method.candidates} S={method.previews}\n")
            guidance = build(architecture, method, prior, reward, args.chunk_size)
            guidance.load_reward()
            sizes = weights(guidance)
            for pixels in args.pixels:
                measured = measure_steps(guidance, architecture, pixels, args.steps)
                yield Row(name, method, pixels, *measured[:2], sizes, measured[2])
            del guidance
            gc.collect()  # an adapter and its network hold each other


def build(
    architecture: Architecture, method: Method, prior: str, reward: str, chunk_size: int
) -> Any:
    """Build a guidance on the best device; `prior` and `reward` are folders."""
    return importlib.import_module("threestudio").find(method.guidance)(
        {
            "prior_type": architecture.prior,
            "pretrained_model_name_or_path": prior,
            "view_dependent_prompting": False,
            "n_noises": method.candidates,
            "preview_steps": method.previews,
            "reward_model_type": "clip",
            "reward_model": {"pretrained_model_name_or_path": reward},
            "chunk_size": chunk_size,
            **architecture.views,
        }
    )


def weights(guidance: Any) -> float:
    """Return the gigabytes of all weights of a guidance, its reward's included."""
    networks = [guidance.prior.unet, guidance.prior.vae]
    networks += [] if guidance.reward is None else [guidance.reward.model]
    parameters = {id(p): p for network in networks for p in network.parameters()}
    parameters |= {id(p): p for p in guidance.parameters()}
    return sum(p.numel() * p.element_size() for p in parameters.values()) / 1e9


def measure_steps(
    guidance: Any, architecture: Architecture, pixels: int, steps: int
) -> tuple[float, int, float]:
    """Return median seconds, network images and peak gigabytes of a step."""
    torch = importlib.import_module("torch")
    batch_size, device = architecture.num_views, guidance.device
    sizes = {"batch_size": batch_size, "width": pixels, "height": pixels}
    cameras = importlib.import_module("threestudio").find(architecture.cameras)(
        {**sizes, **architecture.views}
    )
    cameras.setup("fit")
    prompt = random_prompt(guidance.prior.unet.config.cross_attention_dim, device)
    render = torch.rand(batch_size, pixels, pixels, 3, device=device, requires_grad=True)
    seconds = []
    for index in range(WARM_UP + steps):
        guidance.do_update_step(0, index)
        batch = to_device(cameras.train_dataset.collate([]), device)
        call = partial(step, guidance, render, prompt, batch)
        taken, images = timed(call, device)
        seconds.append(taken)
    return statistics.median(seconds[WARM_UP:]), images, peak_megabytes(call, device) / 1e3


def step(guidance: Any, render: Any, prompt: Any, batch: dict[str, Any]) -> int:
    """Make one step without renderer and optimiser; returns its network images."""
    out = guidance(render, prompt, **batch)
    total_loss(out).backward()
    render.grad = None
    guidance.zero_grad(set_to_none=True)
    return out["unet_calls"]


def table(rows: list[Row], device: str) -> str:
    """Write the measurements as markdown; times as multiples of SDS with the same render, too."""
    lines = [
        f"Device: {device}.",
        "",
        "| prior | method | N | S | render | seconds | / SDS | network images | weights, GB "
        "| peak above them, GB |",
        "|---" * 10 + "|",
    ]
    base = {(r.architecture, r.pixels): r.seconds for r in rows if r.method.name == "SDS"}
    for r in rows:
        plain = r.method.candidates == 1
        counts = " | " if plain else f"{r.method.candidates} | {r.method.previews}"
        ratio = r.seconds / base[r.architecture, r.pixels]
        lines.append(
            f"| {r.architecture} | {r.method.name} | {counts} | {r.pixels} | {r.seconds:.3f} "
            f"| x{ratio:.2f} | {r.images} | {r.networks:.2f} | {r.peak:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
