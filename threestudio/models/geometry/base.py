"""What every geometry offers, and the maths that volumes share.

Points are in world units; a scene fills the box [-radius, radius]^3. Inside a geometry, points of
that box are mapped to [0, 1]^3."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.geometry.extraction import build_helper, extract, isosurface_faults
from threestudio.models.isosurface import IsosurfaceHelper
from threestudio.models.mesh import Mesh
from threestudio.utils.base import BaseModule
from threestudio.utils.errors import ConfigError
from threestudio.utils.typing import Number

Field = Callable[[Tensor], Tensor]


def contract_to_unisphere(
    points: Float[Tensor, "*N 3"], bbox: Float[Tensor, "2 3"], unbounded: bool = False
) -> Float[Tensor, "*N 3"]:
    """Map world points to [0, 1]^3.

    Args:
        points: World points.
        bbox: Lowest and highest corner of the scene.
        unbounded: False maps the box to [0, 1]^3 linearly. True maps all of space: the box fills
            the middle half, and what lies outside is contracted as in mip-NeRF 360, equation 10,
            with the maximum norm.
    """
    low, high = bbox
    if not unbounded:
        return (points - low) / (high - low)
    centered = 2.0 * (points - low) / (high - low) - 1.0
    size = centered.abs().amax(dim=-1, keepdim=True).clamp_min(1e-9)
    contracted = torch.where(size > 1.0, (2.0 - 1.0 / size) * (centered / size), centered)
    return contracted / 4.0 + 0.5


class BaseGeometry(BaseModule):
    """A scene's shape and the features that a material turns into colour."""

    @staticmethod
    def create_from(
        other: "BaseGeometry", cfg: Optional[Any] = None, **kwargs: Any
    ) -> "BaseGeometry":
        """Convert another geometry; a geometry that supports it overrides this."""
        raise TypeError(
            f"Cannot convert a {type(other).__name__}: this geometry cannot be created from "
            "another one."
        )

    def export(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return what an exporter stores at points; nothing by default."""
        return {}


class BaseImplicitGeometry(BaseGeometry):
    """A field over the box [-radius, radius]^3; a mesh can be taken of one of its levels."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        """Half edge of the scene's box, world units."""
        isosurface: bool = True
        """Whether a mesh can be taken of this geometry."""
        isosurface_method: str = "mt"
        """mt: marching tetrahedra, with gradients; mc-cpu: marching cubes, by scikit-image."""
        isosurface_resolution: int = 128
        """Layers of grid vertices along each side of the box."""
        isosurface_threshold: Any = 0.0
        """Level of the surface: a number, or "auto" for the mean of all values above 1e-5."""
        isosurface_chunk: int = 0
        """Points evaluated at once, 0 for all."""
        isosurface_coarse_to_fine: bool = True
        """Extract twice: the first surface gives a tighter box, with a margin of 10 %."""
        isosurface_deformable_grid: bool = False
        """Let grid vertices move, by a network of the geometry; volumes have none."""
        isosurface_remove_outliers: bool = True
        """Drop small components (needs scipy), unless the mesh has gradients."""
        isosurface_outlier_n_faces_threshold: Any = 0.01
        """Triangles that a component needs: an int is a count, a float a share of the largest's."""

    cfg: Config
    bbox: Float[Tensor, "2 3"]

    def configure(self) -> None:
        radius = float(self.cfg.radius)
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3]))
        self.unbounded = False
        self.isosurface_helper: Optional[IsosurfaceHelper] = None

    def forward(
        self, points: Float[Tensor, "*N 3"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Evaluate the field at world points."""
        raise NotImplementedError

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """Evaluate the density alone, as cheaply as possible."""
        raise NotImplementedError

    def forward_field(
        self, points: Float[Tensor, "*N 3"]
    ) -> tuple[Float[Tensor, "*N 1"], Optional[Float[Tensor, "*N 3"]]]:
        """Return the field that an isosurface is taken of, and no deformation."""
        return self.forward_density(points), None

    def forward_level(
        self, field: Float[Tensor, "*N 1"], threshold: float
    ) -> Float[Tensor, "*N 1"]:
        """Return a level set function: zero on the surface, negative inside."""
        return threshold - field

    def isosurface(self) -> Mesh:
        """Return the surface in world units, see `extraction.extract`."""
        if not self.cfg.isosurface:
            raise ConfigError(
                "A mesh is asked for, but `system.geometry.isosurface` is false. Set it to true."
            )
        if self.isosurface_helper is None:
            self.isosurface_helper = build_helper(self.cfg).to(self.bbox.device)
        return extract(self, self.isosurface_helper)


class BaseExplicitGeometry(BaseGeometry):
    """A surface or a set of primitives."""

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        """Half edge of the scene's box, world units."""

    cfg: Config

    def configure(self) -> None:
        radius = float(self.cfg.radius)
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3]))


def blob_bias(
    points: Float[Tensor, "*N 3"], kind: Any, scale: float, std: float
) -> Float[Tensor, "*N 1"] | float:
    """Bias of the raw density that starts a scene as a blob at the origin.

    Args:
        points: World points.
        kind: A number is the same bias everywhere. "blob" and "blob_magic3d" are
            `scale * (1 - |x| / std)` (Magic3D), "blob_dreamfusion" is
            `scale * exp(-|x|^2 / (2 std^2))` (DreamFusion).
        scale: Height of the blob.
        std: Its width, world units.
    """
    if kind == "blob_dreamfusion":
        return scale * torch.exp(-0.5 * (points**2).sum(dim=-1, keepdim=True) / std**2)
    if kind in ("blob", "blob_magic3d"):
        return scale * (1.0 - points.norm(dim=-1, keepdim=True) / std)
    return float(kind)


def volume_faults(cfg: Any, blobs: tuple[str, ...], normal_types: tuple[str, ...]) -> list[str]:
    """List what is wrong with the settings that all volumes share.

    Args:
        cfg: Configuration of a volume.
        blobs: Names that its `density_bias` may have.
        normal_types: Names that its `normal_type` may have.
    """
    faults = []
    if not isinstance(cfg.density_bias, (int, float)) and cfg.density_bias not in blobs:
        faults.append(
            f"`system.geometry.density_bias` is {cfg.density_bias!r}; it must be a number or one "
            f"of {', '.join(blobs)}."
        )
    if cfg.normal_type is not None and cfg.normal_type not in normal_types:
        faults.append(
            f"`system.geometry.normal_type` is {cfg.normal_type!r}; it must be null or one of "
            f"{', '.join(normal_types)}."
        )
    return faults + isosurface_faults(cfg)


def finite_difference_descent(
    field: Field,
    points: Float[Tensor, "*N 3"],
    center: Float[Tensor, "*N 1"],
    eps: float,
    radius: float,
) -> Float[Tensor, "*N 3"]:
    """Estimate `-grad field` by forward differences: `(f(x) - f(x + e)) / eps`."""
    offsets = torch.eye(3, dtype=points.dtype, device=points.device) * eps
    shifted = (points[..., None, :] + offsets).clamp(-radius, radius)
    return (center - field(shifted)[..., 0]) / eps


def laplacian_descent(
    field: Field, points: Float[Tensor, "*N 3"], eps: float, radius: float
) -> Float[Tensor, "*N 3"]:
    """Estimate `-grad field` by central differences: `(f(x - e) - f(x + e)) / (2 eps)`."""
    offsets = torch.eye(3, dtype=points.dtype, device=points.device) * eps
    ahead = field((points[..., None, :] + offsets).clamp(-radius, radius))[..., 0]
    behind = field((points[..., None, :] - offsets).clamp(-radius, radius))[..., 0]
    return 0.5 * (behind - ahead) / eps


def analytic_descent(field: Field, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Differentiate: `-grad field`; itself differentiable where gradients are on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(field(inputs).sum(), inputs, create_graph=create_graph)
    return -gradient


def descent(
    kind: str,
    field: Field,
    points: Float[Tensor, "*N 3"],
    center: Float[Tensor, "*N 1"],
    eps: Number,
    radius: float,
) -> Float[Tensor, "*N 3"]:
    """Return `-grad field`, by one of the ways that `normal_type` names.

    Args:
        kind: finite_difference, finite_difference_laplacian or analytic.
        field: The field.
        points: World points.
        center: The field there; only finite_difference reads it.
        eps: Distance of finite differences, world units.
        radius: Half edge of the box that differences stay in.
    """
    if kind == "finite_difference":
        return finite_difference_descent(field, points, center, float(eps), radius)
    if kind == "finite_difference_laplacian":
        return laplacian_descent(field, points, float(eps), radius)
    return analytic_descent(field, points)
