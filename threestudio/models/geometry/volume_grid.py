"""`volume-grid`: density and features as the channels of one voxel grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.faults import refuse
from threestudio.models.geometry.base import (
    BaseImplicitGeometry,
    blob_bias,
    contract_to_unisphere,
    descent,
    volume_faults,
)
from threestudio.registry import register
from threestudio.utils.ops import get_activation

NORMAL_EPS = 1e-3
NORMAL_TYPES = ("finite_difference", "analytic")
BLOBS = ("blob", "blob_magic3d", "blob_dreamfusion")


def is_count(value: Any) -> bool:
    """Tell positive ints from everything else."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def trilinear(grid: Float[Tensor, "C X Y Z"], coords: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
    """Interpolate a grid as `F.grid_sample(align_corners=False, padding_mode="zeros")`, twice
    differentiable.

    Args:
        grid: Values at cell centres.
        coords: Points in [-1, 1]^3; as in `grid_sample`, the first coordinate runs along the last
            axis.
    """
    size = torch.tensor(grid.shape[1:], device=grid.device)
    position = (coords.flip(-1) + 1.0) * (0.5 * size) - 0.5
    lowest = position.detach().floor()
    fraction = position - lowest
    total: Any = 0.0
    for corner in torch.cartesian_prod(*[torch.arange(2, device=grid.device)] * 3):
        index = lowest.long() + corner
        inside = ((index >= 0) & (index < size)).all(dim=-1)
        weight = torch.where(corner.bool(), fraction, 1.0 - fraction).prod(dim=-1) * inside
        x, y, z = index.clamp(torch.zeros_like(size), size - 1).unbind(-1)
        total = total + weight[:, None] * grid[:, x, y, z].T
    return total


@register("volume-grid")
class VolumeGrid(BaseImplicitGeometry):
    """A trilinear voxel grid over the scene's box; `density = activation(raw + bias) *
    exp(density_scale)`."""

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        grid_size: Any = (100, 100, 100)
        """Cells along z, y, x."""
        n_feature_dims: int = 3
        """Features per point beside the density."""
        density_activation: Optional[str] = "softplus"
        """Name known to `threestudio.utils.ops.get_activation`."""
        density_bias: Any = "blob"
        """A number, or "blob" for `density_blob_scale * (1 - |x| / density_blob_std)`."""
        density_blob_scale: float = 5.0
        """Height of the blob bias, in units of the raw density."""
        density_blob_std: float = 0.5
        """Width of the blob bias, world units."""
        normal_type: Optional[str] = "finite_difference"
        """null, finite_difference or analytic; computed only where a renderer asks for normals."""
        isosurface_threshold: Any = "auto"
        """Density of the surface, or "auto" for the mean of all densities above 1e-5."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = volume_faults(cfg, BLOBS, NORMAL_TYPES)
        size = cfg.grid_size
        if not isinstance(size, Sequence) or len(size) != 3 or not all(is_count(n) for n in size):
            faults.append(
                f"`system.geometry.grid_size` is {size}; it must be three positive ints, "
                "for example [40, 40, 40]."
            )
        return faults

    def configure(self) -> None:
        super().configure()
        refuse(self.check(self.cfg))
        size = list(self.cfg.grid_size)
        self.activation = get_activation(self.cfg.density_activation)
        self.grid = nn.Parameter(torch.zeros(1, self.cfg.n_feature_dims + 1, *size))
        self.density_scale = nn.Parameter(torch.zeros(1))

    def coordinates(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
        """Map world points to the [-1, 1]^3 of `grid_sample`."""
        return contract_to_unisphere(points, self.bbox, self.unbounded) * 2.0 - 1.0

    def interpolate(
        self, grid: Float[Tensor, "1 C X Y Z"], points: Float[Tensor, "*N 3"]
    ) -> Float[Tensor, "*N C"]:
        """Read channels of the grid at world points."""
        coords = self.coordinates(points).reshape(1, 1, 1, -1, 3).to(grid.dtype)
        values = F.grid_sample(grid, coords, align_corners=False)
        return values.reshape(grid.shape[1], -1).T.reshape(*points.shape[:-1], grid.shape[1])

    def activate(
        self, raw: Float[Tensor, "*N 1"], points: Float[Tensor, "*N 3"]
    ) -> Float[Tensor, "*N 1"]:
        """Turn raw values into densities per world unit."""
        cfg = self.cfg
        bias = blob_bias(points, cfg.density_bias, cfg.density_blob_scale, cfg.density_blob_std)
        return self.activation(raw + bias) * self.density_scale.exp()

    def forward(
        self, points: Float[Tensor, "*N 3"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Return `density [*N 1]`, `features [*N F]` and, on request, `normal` and `shading_normal
        [*N 3]`."""
        values = self.interpolate(self.grid, points)
        out = {"density": self.activate(values[..., :1], points)}
        if self.cfg.n_feature_dims > 0:
            out["features"] = values[..., 1:]
        if output_normal and self.cfg.normal_type is not None:
            out["normal"] = out["shading_normal"] = self.normal(points, out["density"])
        return out

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """Return the density alone: one channel is interpolated."""
        return self.activate(self.interpolate(self.grid[:, :1], points), points)

    def normal(
        self, points: Float[Tensor, "*N 3"], density: Float[Tensor, "*N 1"]
    ) -> Float[Tensor, "*N 3"]:
        """Return outward unit normals, the direction in which the density falls fastest."""
        kind = self.cfg.normal_type
        field = self._smooth_density if kind == "analytic" else self.forward_density
        falls = descent(kind, field, points, density, NORMAL_EPS, float(self.cfg.radius))
        return F.normalize(falls, dim=-1)

    def _smooth_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        # grid_sample has no second derivative, which a loss on analytic normals needs
        flat = self.coordinates(points).reshape(-1, 3)
        raw = trilinear(self.grid[0, :1], flat).reshape(*points.shape[:-1], 1)
        return self.activate(raw, points)

    def export(self, points: Float[Tensor, "*N 3"], **kwargs: Any) -> dict[str, Any]:
        """Return the features at points."""
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self.interpolate(self.grid[:, 1:], points)}
