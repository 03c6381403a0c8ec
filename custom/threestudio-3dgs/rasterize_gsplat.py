"""Pictures of 3D Gaussians by the gsplat library, on CUDA.

The same picture as `rasterize_torch` makes but for alpha, which gsplat cuts off at 0.999 instead of
0.99."""

from typing import Optional

import torch
from jaxtyping import Float
from torch import Tensor

from .projection import DILATION, Cameras, Gaussians, facing_normals, project
from .rasterize_torch import FAR, NEAR, Rendering, at_least_float32
from .spherical_harmonics import colors


class ProjectedPoints:
    """The projected centres of one picture, whose gradient density control asks for."""

    def __init__(self, means: Float[Tensor, "B N 2"], view: int, half: Float[Tensor, " 2"]) -> None:
        """Look at one picture.

        Args:
            means: Projected centres of all pictures, pixels, with `retain_grad` called.
            view: The picture.
            half: Half of its width and height, pixels.
        """
        self.means, self.view, self.half = means, view, half

    @property
    def grad(self) -> Optional[Float[Tensor, "N 2"]]:
        """Gradient in units of half a picture, None before the backward pass."""
        return None if self.means.grad is None else self.means.grad[self.view] * self.half


def rasterize(gaussians: Gaussians, cameras: Cameras) -> tuple[Rendering, list[ProjectedPoints]]:
    """Draw Gaussians, see `rasterize_torch.rasterize`."""
    with torch.autocast(device_type=gaussians.means.device.type, enabled=False):
        return _rasterize(*at_least_float32(gaussians, cameras))


def _rasterize(gaussians: Gaussians, cameras: Cameras) -> tuple[Rendering, list[ProjectedPoints]]:
    from gsplat import rasterization

    radii = _radii(gaussians, cameras)
    images, opacity, found = rasterization(
        means=gaussians.means,
        quats=gaussians.rotations,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=_features(gaussians, cameras),
        viewmats=_view_matrices(cameras),
        Ks=_intrinsics(cameras),
        width=cameras.width,
        height=cameras.height,
        near_plane=NEAR,
        far_plane=FAR,
        eps2d=DILATION,
        packed=False,
        render_mode="RGB+D",
    )
    means = found["means2d"]
    if means.requires_grad:
        means.retain_grad()
    half = means.new_tensor([0.5 * cameras.width, 0.5 * cameras.height])
    points = [ProjectedPoints(means, view, half) for view in range(len(means))]
    color, normal, depth = images.split([3, 3, 1], dim=-1)
    return Rendering(color, depth, normal, opacity, radii), points


@torch.no_grad()
def _radii(gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "B N"]:
    """Return radii as `rasterize_torch` has them: gsplat's mean something else in each release.

    Raises:
        NonFiniteError: As `project` does.
    """
    offsets = gaussians.means.new_zeros(len(cameras.center), len(gaussians.means), 2)
    return project(gaussians, cameras, NEAR, FAR, offsets).radii


def _features(gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "B N 6"]:
    """Return colour and normal of each Gaussian as each camera sees it."""
    count = len(gaussians.means)
    index = torch.arange(count, device=gaussians.means.device)
    rows = []
    for center in cameras.center:
        away = gaussians.means - center
        normals = facing_normals(gaussians, index, -away)
        rows.append(torch.cat([colors(gaussians.harmonics, away), normals], dim=1))
    return torch.stack(rows)


def _view_matrices(cameras: Cameras) -> Float[Tensor, "B 4 4"]:
    matrices = torch.eye(4).to(cameras.rotation).repeat(len(cameras.center), 1, 1)
    matrices[:, :3, :3] = cameras.rotation
    matrices[:, :3, 3] = -(cameras.rotation @ cameras.center[..., None])[..., 0]
    return matrices


def _intrinsics(cameras: Cameras) -> Float[Tensor, "B 3 3"]:
    matrices = torch.eye(3).to(cameras.focal).repeat(len(cameras.focal), 1, 1)
    matrices[:, 0, 0] = matrices[:, 1, 1] = cameras.focal
    matrices[:, 0, 2], matrices[:, 1, 2] = 0.5 * cameras.width, 0.5 * cameras.height
    return matrices
