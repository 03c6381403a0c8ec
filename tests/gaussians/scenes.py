"""Gaussians and cameras that several tests draw."""

import importlib
import math

import torch

rasterizer = importlib.import_module("threestudio-3dgs.rasterize_torch")
projection = importlib.import_module("threestudio-3dgs.projection")

NAMES = ("means", "scales", "rotations", "opacities", "harmonics")


def look(position, target=(0.0, 0.0, 0.0)) -> torch.Tensor:
    """Return an OpenGL camera at `position`, z up."""
    position, target = (torch.tensor(p, dtype=torch.float64) for p in (position, target))
    back = torch.nn.functional.normalize(position - target, dim=0)
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).double(), back)
    right = torch.nn.functional.normalize(right, dim=0)
    c2w = torch.eye(4).double()
    c2w[:3] = torch.stack([right, torch.linalg.cross(back, right), back, position], dim=1)
    return c2w


def views(height=20, width=24, positions=((2.5, 0.3, 0.4), (-1.0, 2.0, 1.2)), fovy_deg=50.0):
    """Return matrices, fields of view in radians, and the cameras made of them."""
    c2w = torch.stack([look(p) for p in positions])
    fovy = torch.full((len(c2w),), math.radians(fovy_deg), dtype=torch.float64)
    return c2w, fovy, projection.Cameras.of(c2w, fovy, height, width)


def cloud(count, degree=0, seed=0, size=(0.02, 0.25), spread=0.8):
    """Return random Gaussians in float64."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator).double()

    low, high = size
    return projection.Gaussians(
        means=(draw(count, 3) * 2 - 1) * spread,
        scales=low * (high / low) ** draw(count, 3),
        rotations=draw(count, 4) * 2 - 1,
        opacities=draw(count) * 0.95 + 0.02,
        harmonics=(draw(count, (degree + 1) ** 2, 3) * 2 - 1) * (1.5 if degree == 0 else 0.4),
    )


def single(mean=(0.0, 0.0, 0.0), scale=(0.1, 0.1, 0.1), opacity=0.8, rgb=(1.0, 0.0, 0.0)):
    """Return one Gaussian in float64."""
    harmonics = (torch.tensor(rgb, dtype=torch.float64) - 0.5) * 2 * math.sqrt(math.pi)
    return projection.Gaussians(
        means=torch.tensor([mean], dtype=torch.float64),
        scales=torch.tensor([scale], dtype=torch.float64),
        rotations=torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        opacities=torch.tensor([opacity], dtype=torch.float64),
        harmonics=harmonics.view(1, 1, 3),
    )


def stacked(rendering) -> torch.Tensor:
    """Return colour, normal, depth and opacity as the channels of one image."""
    parts = (rendering.color, rendering.normal, rendering.depth, rendering.opacity)
    return torch.cat(parts, dim=-1)


def arrays(gaussians) -> dict:
    """Return the parameters as arrays."""
    return {name: getattr(gaussians, name).detach().numpy() for name in NAMES}
