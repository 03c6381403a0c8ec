"""The parameters of a scene of 3D Gaussians, what they mean, and their files."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.geometry.base import BaseExplicitGeometry
from threestudio.models.geometry.extraction import build_helper, extract
from threestudio.models.mesh import Mesh

from .covariance import covariances, rotation_matrices
from .field import evaluate
from .initialization import with_degree
from .parameters import PARAMETERS, Values, shapes
from .ply import read_gaussians, write_gaussians
from .projection import Gaussians
from .spherical_harmonics import BLACK, degree_in_use

STATISTICS = ("slope_sum", "slope_count", "largest_radius")
"""What density control has seen since the last change, one number for each Gaussian."""


class GaussianModel(BaseExplicitGeometry):
    """3D Gaussians with upstream's names for their parameters, see `parameters`.

    Everything that training changes, the number of Gaussians included, is in the state dict: a
    state of any number can be loaded."""

    color_clip: float
    """Bound on the constant harmonics at this step; none from `BLACK` on."""
    scheduled_sh_degree: int
    """Degree of the harmonics that the schedule has reached at this step."""

    def configure(self) -> None:
        super().configure()
        self.optimizer: Optional[torch.optim.Adam] = None
        self.color_clip, self.scheduled_sh_degree = 0.0, 0

    def set_values(self, values: Values) -> None:
        """Take over a value for each parameter. An optimizer of earlier parameters is dropped."""
        for name in PARAMETERS.values():
            value = values[name].detach().to(self.bbox).contiguous()
            setattr(self, name, nn.Parameter(value))
        self.optimizer = None
        self._forget()

    def _forget(self) -> None:
        """Begin the statistics of density control anew."""
        for name in STATISTICS:
            self.register_buffer(name, torch.zeros_like(self._opacity[:, 0].detach()))

    def resize(self, count: int) -> None:
        """Make room for another number of Gaussians, whose values are loaded next."""
        if count != len(self._xyz):
            sizes = shapes(count, self.cfg.sh_degree)
            self.set_values({name: self._xyz.new_zeros(size) for name, size in sizes.items()})

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}_xyz" in state:
            self.resize(len(state[f"{prefix}_xyz"]))
        super()._load_from_state_dict(state, prefix, *args)

    @property
    def get_xyz(self) -> Float[Tensor, "P 3"]:
        """Centres, world units."""
        return self._xyz

    @property
    def get_scaling(self) -> Float[Tensor, "P 3"]:
        """Standard deviations along the axes, world units."""
        if self.cfg.sphere:
            return self._scaling.mean(dim=1, keepdim=True).exp().expand(-1, 3)
        return self._scaling.exp()

    @property
    def get_rotation(self) -> Float[Tensor, "P 4"]:
        """Unit quaternions (w, x, y, z)."""
        return F.normalize(self._rotation, dim=-1)

    @property
    def get_opacity(self) -> Float[Tensor, "P 1"]:
        """Opacities at the centres, in (0, 1)."""
        return self._opacity.sigmoid()

    @property
    def active_sh_degree(self) -> int:
        """Degree of the harmonics in use: the schedule's, or that of a file if it is higher."""
        return max(self.scheduled_sh_degree, degree_in_use(self._features_rest.detach()))

    @property
    def active_features_rest(self) -> Float[Tensor, "P K 3"]:
        """Harmonics in use but for the constant one."""
        return self._features_rest[:, : (self.active_sh_degree + 1) ** 2 - 1]

    @property
    def get_features(self) -> Float[Tensor, "P K 3"]:
        """Harmonics in use; the constant one is bounded by `color_clip`."""
        constant = self._features_dc
        if self.color_clip < BLACK:
            constant = constant.clamp(-self.color_clip, self.color_clip)
        return torch.cat([constant, self.active_features_rest], dim=1)

    @property
    def get_normal(self) -> Float[Tensor, "P 3"]:
        """Shortest axes, unit vectors of arbitrary sign."""
        shortest = self.get_scaling.detach().argmin(dim=1)
        columns = rotation_matrices(self._rotation).transpose(1, 2)
        return columns[torch.arange(len(columns), device=columns.device), shortest]

    def get_covariance(self, scaling_modifier: float = 1.0) -> Float[Tensor, "P 3 3"]:
        """Return covariances of Gaussians that are wider by a factor."""
        return covariances(scaling_modifier * self.get_scaling, self._rotation)

    def forward_field(
        self, points: Float[Tensor, "N 3"]
    ) -> tuple[Float[Tensor, "N 1"], Optional[Float[Tensor, "N 3"]]]:
        """Return the density at world points, see `field`, and no deformation."""
        return evaluate(self.gaussians(), points)[0], None

    def forward_level(self, field: Float[Tensor, "N 1"], threshold: float) -> Float[Tensor, "N 1"]:
        """Return a level set function: zero on the surface, negative inside."""
        return threshold - field

    @torch.no_grad()
    def isosurface(self) -> Mesh:
        """Return the surface in world units."""
        return extract(self, build_helper(self.cfg).to(self.bbox.device))

    def export(self, points: Float[Tensor, "N 3"], **kwargs: Any) -> dict[str, Any]:
        """Return the albedo at world points, in [0, 1]."""
        return {"albedo": evaluate(self.gaussians(), points)[1]}

    def gaussians(self) -> Gaussians:
        """Return what a rasteriser draws."""
        return Gaussians(
            means=self.get_xyz,
            scales=self.get_scaling,
            rotations=self._rotation,
            opacities=self.get_opacity[:, 0],
            harmonics=self.get_features,
        )

    def save_ply(self, path: str) -> None:
        """Write the parameters as they are, see `ply`."""
        write_gaussians(path, {name: getattr(self, name) for name in PARAMETERS.values()})

    def load_ply(self, path: str) -> None:
        """Read parameters; harmonics above `sh_degree` are left out."""
        self.set_values(with_degree(read_gaussians(path), self.cfg.sh_degree))
