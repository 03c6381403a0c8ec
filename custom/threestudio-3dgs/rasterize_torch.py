"""Pictures of 3D Gaussians in plain torch, on any device, with exact gradients."""

from dataclasses import dataclass
from typing import Optional

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .compositing import blend
from .projection import Cameras, Gaussians, Splats, facing_normals, project
from .spherical_harmonics import colors
from .tiles import TileGrid, tile_lists

NEAR, FAR = 0.1, 100.0
"""Depths of the centres of Gaussians that are drawn, world units."""


@dataclass(frozen=True)
class Rendering:
    """What cameras see. With the weights `w = T alpha` of the Gaussians at a pixel, front to back,
    an image is the sum of w times a value of each Gaussian: nothing is divided by the opacity, and
    there is no background."""

    color: Float[Tensor, "B H W 3"]
    """Of the colours."""
    depth: Float[Tensor, "B H W 1"]
    """Of the distances of the centres along the camera's axis, world units."""
    normal: Float[Tensor, "B H W 3"]
    """Of the shortest axes, unit vectors in the world on the side of the camera."""
    opacity: Float[Tensor, "B H W 1"]
    """Of ones: 1 minus the transmittance."""
    radii: Float[Tensor, "B N"]
    """Three standard deviations of each Gaussian in each picture, whole pixels; 0 if not in it."""

    @property
    def visible(self) -> Bool[Tensor, "B N"]:
        """Which pictures show which Gaussians."""
        return self.radii > 0


def rasterize(
    gaussians: Gaussians,
    cameras: Cameras,
    near: float = NEAR,
    far: float = FAR,
    offsets: Optional[Float[Tensor, "B N 2"]] = None,
) -> Rendering:
    """Draw Gaussians (Kerbl et al. 2023), by the formulas of `projection` and `compositing`.

    A Gaussian is drawn if its centre has a depth above `near` and of at most `far`, and its ellipse
    reaches into the picture. Gaussians at the same depth are drawn in their order.

    Args:
        gaussians: Their parameters, all of one floating type; half precision is drawn in float32.
        cameras: B cameras of one picture size.
        near: Lowest depth, exclusive.
        far: Highest depth, inclusive.
        offsets: Zeros. After a backward pass their gradient is that of the projected centres, in
            units of half a picture; None if that is not wanted.

    Raises:
        NonFiniteError: For parameters that are NaN or infinite.
    """
    with torch.autocast(device_type=gaussians.means.device.type, enabled=False):
        gaussians, cameras = at_least_float32(gaussians, cameras)
        means = gaussians.means
        if offsets is None:
            offsets = means.new_zeros(len(cameras.center), len(means), 2)
        splats = project(gaussians, cameras, near, far, offsets.to(means))
        grid = TileGrid(len(cameras.center), cameras.height, cameras.width)
        image = blend(splats, features(gaussians, cameras, splats), tile_lists(splats, grid))
    color, normal, depth, opacity = image.split([3, 3, 1, 1], dim=-1)
    return Rendering(color, depth, normal, opacity, splats.radii)


def features(gaussians: Gaussians, cameras: Cameras, splats: Splats) -> Float[Tensor, "M 8"]:
    """Return what is blended: colour, normal, depth and 1."""
    means = gaussians.means.index_select(0, splats.index)
    away = means - cameras.center.index_select(0, splats.view)
    harmonics = gaussians.harmonics.index_select(0, splats.index)
    normals = facing_normals(gaussians, splats.index, -away)
    depth = splats.depth[:, None]
    return torch.cat([colors(harmonics, away), normals, depth, torch.ones_like(depth)], dim=1)


def at_least_float32(gaussians: Gaussians, cameras: Cameras) -> tuple[Gaussians, Cameras]:
    """Widen half precision, and give cameras the type of the Gaussians."""
    kind = torch.promote_types(gaussians.means.dtype, torch.float32)
    wide = Gaussians(**{name: value.to(kind) for name, value in vars(gaussians).items()})
    placed = (value.to(wide.means) for value in (cameras.rotation, cameras.center, cameras.focal))
    return wide, Cameras(*placed, height=cameras.height, width=cameras.width)
