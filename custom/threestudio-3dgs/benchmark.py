"""Measure the rasteriser against the dense formula: every Gaussian at every pixel.

    python custom/threestudio-3dgs/benchmark.py

prints one markdown table, all of it from one run. Every case is a process of its own, one after the
other. Times are CPU time, the best of some repetitions, so that other work on the machine matters
little; memory is what the process grows by. The scene is the start of a run: Gaussians in a ball,
each as wide as the distance to its neighbours.
"""

import argparse
import importlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CASES = ((500, 64), (2_000, 32), (2_000, 64), (4_096, 64), (2_000, 128), (20_000, 128))
"""Gaussians, and pixels along the edge of a picture."""
MOST_DENSE = 1 << 25
"""Pairs of a Gaussian and a pixel beyond which the dense formula is not tried: 4 GB."""


def main(argv: list[str] | None = None) -> int:
    """Print the table, or with `--case` the measurement of one case as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="measured repetitions")
    parser.add_argument("--case", help="kind,count,size: measure one case in this process")
    args = parser.parse_args(argv)
    if args.case:
        kind, count, size = args.case.split(",")
        sys.stdout.write(json.dumps(measure(kind, int(count), int(size), args.repeats)))
        return 0
    found = {}
    for count, size in CASES:
        for kind in ("tiled", "dense") if count * size**2 <= MOST_DENSE else ("tiled",):
            sys.stderr.write(f"{kind}: {count} Gaussians, {size} x {size} pixels\n")
            found[kind, count, size] = measure_apart(kind, count, size, args.repeats, args.threads)
    sys.stdout.write(table(found))
    return 0


def measure_apart(
    kind: str, count: int, size: int, repeats: int, threads: int = 1
) -> dict[str, float]:
    """Measure a case in a process of its own, see `measure`."""
    command = [sys.executable, __file__, f"--case={kind},{count},{size}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    result = subprocess.run(
        [*command, f"--repeats={repeats}"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise RuntimeError(f"The case {kind},{count},{size} failed:\n{result.stderr}")
    return json.loads(result.stdout)


def measure(kind: str, count: int, size: int, repeats: int) -> dict[str, float]:
    """Draw a scene and differentiate its picture.

    Returns:
        Seconds of CPU time of the forward and of the backward pass, and megabytes.
    """
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    importlib.import_module("threestudio.extensions").load_extensions(str(ROOT / "custom"))
    gaussians, cameras = scene(count, size)
    draw = {"tiled": tiled, "dense": dense}[kind]
    draw(*scene(8, 16)).sum().backward()  # what is loaded at the first use is not counted
    memory, forward, backward = _megabytes(), [], []
    for _ in range(repeats):
        started = time.process_time()
        image = draw(gaussians, cameras)
        drawn = time.process_time()
        image.sum().backward()
        forward.append(drawn - started)
        backward.append(time.process_time() - drawn)
    grown = _megabytes() - memory
    return {"forward": min(forward), "backward": min(backward), "megabytes": grown}


def _megabytes() -> float:
    """Return the most memory that the process has had."""
    status = Path("/proc/self/status")
    if status.exists():  # there `getrusage` begins at the memory of the parent
        return float(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def scene(count: int, size: int) -> tuple[Any, Any]:
    """Return Gaussians in a ball of radius 0.8 with gradients, and one camera at distance 2.5."""
    torch = importlib.import_module("torch")
    projection = importlib.import_module("threestudio-3dgs.projection")
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(count, 3, generator=generator)
    radius = 0.8 * torch.rand(count, 1, generator=generator) ** (1 / 3)
    # about the mean distance to the three nearest neighbours, and half to twice of it per axis
    spacing = 0.8 * count ** (-1 / 3)
    values = (
        direction / direction.norm(dim=1, keepdim=True) * radius,
        spacing * 2.0 ** (torch.rand(count, 3, generator=generator) * 2 - 1),
        torch.randn(count, 4, generator=generator),
        torch.full((count,), 0.1),
        torch.randn(count, 1, 3, generator=generator),
    )
    c2w = torch.eye(4)[None]
    c2w[0, 2, 3] = 2.5
    cameras = projection.Cameras.of(c2w, torch.tensor([math.radians(45.0)]), size, size)
    return projection.Gaussians(*(value.requires_grad_() for value in values)), cameras


def tiled(gaussians: Any, cameras: Any) -> Any:
    """Draw as the renderer does; returns colour, depth, normal and opacity [H W 8]."""
    torch = importlib.import_module("torch")
    rasterizer = importlib.import_module("threestudio-3dgs.rasterize_torch")
    out = rasterizer.rasterize(gaussians, cameras)
    return torch.cat([out.color, out.normal, out.depth, out.opacity], dim=-1)[0]


def dense(gaussians: Any, cameras: Any) -> Any:
    """Draw by one matrix of all Gaussians and all pixels; otherwise the same picture."""
    torch = importlib.import_module("torch")
    projection = importlib.import_module("threestudio-3dgs.projection")
    rasterizer = importlib.import_module("threestudio-3dgs.rasterize_torch")
    offsets = gaussians.means.new_zeros(1, len(gaussians.means), 2)
    splats = projection.project(gaussians, cameras, rasterizer.NEAR, rasterizer.FAR, offsets)
    features = rasterizer.features(gaussians, cameras, splats)
    order = splats.depth.argsort()
    x, y = torch.meshgrid(torch.arange(cameras.width), torch.arange(cameras.height), indexing="xy")
    offset = torch.stack([x.flatten(), y.flatten()], dim=-1) + 0.5 - splats.mean[order][:, None]
    dx, dy = offset.unbind(-1)
    xx, xy, yy = splats.conic[order][:, :, None].unbind(1)
    squared = xx * dx * dx + 2.0 * xy * dx * dy + yy * dy * dy
    alpha = (splats.log_opacity[order][:, None] - 0.5 * squared).exp().clamp_max(0.99)
    alpha = torch.where(alpha > 1 / 255, alpha, 0.0)
    after = torch.cumprod(1.0 - alpha, dim=0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    image = (alpha * before * (after > 1e-4)).T @ features[order]
    return image.view(cameras.height, cameras.width, -1)


def table(found: dict[tuple[str, int, int], dict[str, float]]) -> str:
    """Compare both ways; `found` maps (kind, count, size) to what `measure` returned."""
    lines = [
        "| Gaussians | pixels | forward, ms | backward, ms | dense / tiled, forward | backward "
        "| both | memory, MB | dense / tiled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, count, size in found:
        if kind == "tiled":
            own, other = found[kind, count, size], found.get(("dense", count, size))
            times = f"{1e3 * own['forward']:.0f} | {1e3 * own['backward']:.0f}"
            memory = f"{own['megabytes']:.0f}"
            ratios = _ratios(own, other)
            lines.append(
                f"| {count:,} | {size} x {size} | {times} | {' | '.join(ratios[:3])} "
                f"| {memory} | {ratios[3]} |"
            )
    return "\n".join(lines) + "\n"


def _ratios(own: dict[str, float], other: dict[str, float] | None) -> list[str]:
    """Return forward, backward, both and memory of `other` in units of `own`."""
    if other is None:
        return ["-"] * 4
    pairs = [(other[key], own[key]) for key in ("forward", "backward")]
    pairs.append(tuple(map(sum, zip(*pairs, strict=True))))
    pairs.append((other["megabytes"], max(own["megabytes"], 1.0)))
    return [f"x{theirs / mine:.1f}" for theirs, mine in pairs]


if __name__ == "__main__":
    sys.exit(main())
