"""What every geometry offers, and the maths that volumes share.

Points are in world units; a scene fills the box [-radius, radius]^3. Inside a geometry, points of
that box are mapped to [0, 1]^3."""

from dataclasses import dataclass
from typing import Any, Callable, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule

Density = Callable[[Tensor], Tensor]


def contract_to_unisphere(
    points: Float[Tensor, "*N 3"], bbox: Float[Tensor, "2 3"], unbounded: bool = False
) -> Float[Tensor, "*N 3"]:
    """Map world points to [0, 1]^3.

    Args:
        points: World points. bbox: Lowest and highest corner of the scene. unbounded: False maps
        the box to [0, 1]^3 linearly. True maps all of space: the box fills the middle half, and
            what lies outside is contracted as in mip-NeRF 360, equation 10, with the maximum norm.
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
    """A field over the box [-radius, radius]^3.

    The `isosurface...` settings are accepted for upstream's YAMLs; they belong to mesh extraction.
    """

    @dataclass
    class Config(BaseGeometry.Config):
        radius: float = 1.0
        """Half edge of the scene's box, world units."""
        isosurface: bool = True
        """Kept for upstream's YAMLs: whether a mesh can be taken of this geometry."""
        isosurface_method: str = "mt"
        """Kept for upstream's YAMLs: mt or mc-cpu."""
        isosurface_resolution: int = 128
        """Kept for upstream's YAMLs: cells along each side of the box."""
        isosurface_threshold: Any = 0.0
        """Kept for upstream's YAMLs: level of the surface, a number or "auto"."""
        isosurface_chunk: int = 0
        """Kept for upstream's YAMLs: points evaluated at once, 0 for all."""
        isosurface_coarse_to_fine: bool = True
        """Kept for upstream's YAMLs: find a tight box first."""
        isosurface_deformable_grid: bool = False
        """Kept for upstream's YAMLs: let grid vertices move."""
        isosurface_remove_outliers: bool = True
        """Kept for upstream's YAMLs: drop small components."""
        isosurface_outlier_n_faces_threshold: Any = 0.01
        """Kept for upstream's YAMLs: what counts as small, faces or share of the largest."""

    cfg: Config
    bbox: Float[Tensor, "2 3"]

    def configure(self) -> None:
        radius = float(self.cfg.radius)
        self.register_buffer("bbox", torch.tensor([[-radius] * 3, [radius] * 3]))
        self.unbounded = False

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
        points: World points. kind: A number is the same bias everywhere. "blob" and "blob_magic3d"
        are `scale * (1 - |x| / std)` (Magic3D),
            "blob_dreamfusion" is `scale * exp(-|x|^2 / (2 std^2))` (DreamFusion).
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
    return faults


def finite_difference_normal(
    density: Density,
    points: Float[Tensor, "*N 3"],
    center: Float[Tensor, "*N 1"],
    eps: float,
    radius: float,
) -> Float[Tensor, "*N 3"]:
    """Estimate `-grad density`, normalised, by forward differences: `(f(x) - f(x + e)) / eps`."""
    offsets = torch.eye(3, dtype=points.dtype, device=points.device) * eps
    shifted = (points[..., None, :] + offsets).clamp(-radius, radius)
    return F.normalize((center - density(shifted)[..., 0]) / eps, dim=-1)


def laplacian_normal(
    density: Density, points: Float[Tensor, "*N 3"], eps: float, radius: float
) -> Float[Tensor, "*N 3"]:
    """Estimate `-grad density`, normalised, by central differences: `(f(x - e) - f(x + e)) / (2
    eps)`."""
    offsets = torch.eye(3, dtype=points.dtype, device=points.device) * eps
    ahead = density((points[..., None, :] + offsets).clamp(-radius, radius))[..., 0]
    behind = density((points[..., None, :] - offsets).clamp(-radius, radius))[..., 0]
    return F.normalize(0.5 * (behind - ahead) / eps, dim=-1)


def analytic_normal(density: Density, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 3"]:
    """Differentiate the density: `-grad density`, normalised; itself differentiable where gradients
    are on."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        inputs = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(density(inputs).sum(), inputs, create_graph=create_graph)
    return F.normalize(-gradient, dim=-1)
