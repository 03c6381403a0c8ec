"""`implicit-sdf`: signed distance and features from an input encoding and small networks."""

from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import refuse
from threestudio.models.geometry.base import (
    BaseGeometry,
    BaseImplicitGeometry,
    contract_to_unisphere,
    descent,
)
from threestudio.models.geometry.extraction import isosurface_faults
from threestudio.models.geometry.implicit_volume import (
    NORMAL_TYPES,
    analytic_faults,
    copy_parts,
    default_encoding,
    default_network,
    network_faults,
)
from threestudio.models.geometry.shape_init import (
    Distance,
    ShapeConfig,
    StartsFromShape,
    fit_distance,
    is_size,
    primitive,
    primitive_faults,
    shape_faults,
)
from threestudio.models.networks import get_encoding, get_mlp
from threestudio.registry import register
from threestudio.utils.fields import is_number
from threestudio.utils.typing import Number

BIASES = ("ellipsoid", "sphere")


@register("implicit-sdf")
class ImplicitSDF(StartsFromShape, BaseImplicitGeometry):
    """A signed distance, negative inside: one encoding, read by a distance network, a feature
    network and, where asked for, networks of normals and of the grid's deformation."""

    @dataclass
    class Config(ShapeConfig, BaseImplicitGeometry.Config):
        n_input_dims: int = 3
        """Coordinates of a point."""
        n_feature_dims: int = 3
        """Features per point beside the distance."""
        pos_encoding_config: dict = field(default_factory=default_encoding)
        """Encoding of positions."""
        mlp_network_config: dict = field(default_factory=default_network)
        """Networks on top of it."""
        normal_type: Optional[str] = "finite_difference"
        """null, pred, finite_difference, finite_difference_laplacian or analytic; computed only on
        request."""
        finite_difference_normal_eps: Any = 0.01
        """Distance of finite differences, world units; "progressive" takes the cell of the finest
        open level of a ProgressiveBandHashGrid (Neuralangelo)."""
        sdf_bias: Any = 0.0
        """Added to the distance network: a number, or the level of an ellipsoid or a sphere."""
        sdf_bias_params: Any = None
        """ellipsoid: its three half axes; sphere: its radius; world units."""
        isosurface_remove_outliers: bool = False
        """Drop small components (needs scipy), unless the mesh has gradients."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = network_faults(cfg) + _normal_faults(cfg) + analytic_faults(cfg)
        return faults + _bias_faults(cfg) + shape_faults(cfg) + isosurface_faults(cfg)

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        refuse(self.check(cfg))
        self.encoding = get_encoding(cfg.n_input_dims, cfg.pos_encoding_config)
        biased = cfg.sdf_bias in BIASES
        self.bias = primitive(cfg.sdf_bias, cfg.sdf_bias_params) if biased else None
        width = self.encoding.n_output_dims
        self.sdf_network = get_mlp(width, 1, cfg.mlp_network_config)
        if cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(width, cfg.n_feature_dims, cfg.mlp_network_config)
        if cfg.normal_type == "pred":
            self.normal_network = get_mlp(width, 3, cfg.mlp_network_config)
        if cfg.isosurface_deformable_grid:
            self.deformation_network = get_mlp(width, 3, cfg.mlp_network_config)
        self.watch_weights()

    def take_shape(self, target: Distance) -> None:
        """Train the distance to equal a target."""
        fit_distance(self, self.forward_sdf, target, self.cfg.radius)

    def encode(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N F"]:
        """Encode world points."""
        return self.encoding(contract_to_unisphere(points, self.bbox, self.unbounded))

    def distance(
        self, encoded: Float[Tensor, "*N F"], points: Float[Tensor, "*N 3"]
    ) -> Float[Tensor, "*N 1"]:
        """Return the network's distance plus the bias."""
        bias = self.cfg.sdf_bias if self.bias is None else self.bias(points)
        return self.sdf_network(encoded) + bias

    def forward(
        self, points: Float[Tensor, "*N 3"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Return `sdf [*N 1]`, `features [*N F]` and, on request, `normal`, `shading_normal` and
        `sdf_grad [*N 3]`."""
        encoded = self.encode(points)
        out = {"sdf": self.distance(encoded, points)}
        if self.cfg.n_feature_dims > 0:
            out["features"] = self.feature_network(encoded)
        if output_normal and self.cfg.normal_type is not None:
            out["sdf_grad"] = self.gradient(points, out["sdf"], encoded)
            out["normal"] = out["shading_normal"] = F.normalize(out["sdf_grad"], dim=-1)
        return out

    def forward_sdf(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """Return the distance alone."""
        return self.distance(self.encode(points), points)

    def forward_field(
        self, points: Float[Tensor, "*N 3"]
    ) -> tuple[Float[Tensor, "*N 1"], Optional[Float[Tensor, "*N 3"]]]:
        """Return the distance, and the raw deformation of the grid if it is deformable."""
        encoded = self.encode(points)
        deformable = self.cfg.isosurface_deformable_grid
        deformation = self.deformation_network(encoded) if deformable else None
        return self.distance(encoded, points), deformation

    def forward_level(
        self, field: Float[Tensor, "*N 1"], threshold: float
    ) -> Float[Tensor, "*N 1"]:
        """Return a level set function: zero on the surface, negative inside."""
        return field - threshold

    @property
    def normal_eps(self) -> Number:
        """Distance of finite differences at this step, world units."""
        if self.cfg.finite_difference_normal_eps != "progressive":
            return self.cfg.finite_difference_normal_eps
        bands = self.encoding.encoding
        # a level has base_resolution * per_level_scale^level = scale + 1 cells along the box
        return 2.0 * self.cfg.radius / (bands.scales[bands.current_level - 1] + 1.0)

    def gradient(
        self,
        points: Float[Tensor, "*N 3"],
        sdf: Float[Tensor, "*N 1"],
        encoded: Float[Tensor, "*N F"],
    ) -> Float[Tensor, "*N 3"]:
        """Return the gradient of the distance, which points outwards; a predicted one has length 1.

        Upstream's analytic gradient has the opposite sign.
        """
        kind, radius = self.cfg.normal_type, float(self.cfg.radius)
        if kind == "pred":
            return F.normalize(self.normal_network(encoded), dim=-1)
        return -descent(kind, self.forward_sdf, points, sdf, self.normal_eps, radius)

    def export(self, points: Float[Tensor, "*N 3"], **kwargs: Any) -> dict[str, Any]:
        """Return the features at points."""
        if self.cfg.n_feature_dims == 0:
            return {}
        return {"features": self.feature_network(self.encode(points))}

    @staticmethod
    @torch.no_grad()
    def create_from(
        other: BaseGeometry,
        cfg: Optional[Any] = None,
        copy_net: bool = True,
        **kwargs: Any,
    ) -> "ImplicitSDF":
        """Copy another implicit distance of the same shapes: encoding, distance and deformation,
        and all networks if `copy_net`."""
        if not isinstance(other, ImplicitSDF):
            raise TypeError(
                f"Cannot create an implicit-sdf from a {type(other).__name__}; only from another "
                "implicit-sdf."
            )
        made = ImplicitSDF(cfg, **kwargs)
        names = ("feature_network", "normal_network") if copy_net else ()
        copy_parts(other, made, ("encoding", "sdf_network", "deformation_network", *names))
        made.has_weights = True
        return made


def _normal_faults(cfg: Any) -> list[str]:
    faults = []
    if cfg.normal_type is not None and cfg.normal_type not in NORMAL_TYPES:
        faults.append(
            f"`system.geometry.normal_type` is {cfg.normal_type!r}; it must be null or one of "
            f"{', '.join(NORMAL_TYPES)}."
        )
    eps, otype = cfg.finite_difference_normal_eps, cfg.pos_encoding_config.get("otype")
    if eps == "progressive" and otype != "ProgressiveBandHashGrid":
        faults.append(
            "`system.geometry.finite_difference_normal_eps` progressive needs "
            "`system.geometry.pos_encoding_config.otype` ProgressiveBandHashGrid, not "
            f"{otype!r}. Set one of the two."
        )
    if eps != "progressive" and not is_size(eps):
        faults.append(
            f"`system.geometry.finite_difference_normal_eps` is {eps!r}; it must be a positive "
            "number or progressive."
        )
    return faults


def _bias_faults(cfg: Any) -> list[str]:
    if cfg.sdf_bias in BIASES:
        return primitive_faults("system.geometry.sdf_bias", cfg.sdf_bias, cfg.sdf_bias_params)
    if is_number(cfg.sdf_bias):
        return []
    return [
        f"`system.geometry.sdf_bias` is {cfg.sdf_bias!r}; it must be a number or one of "
        f"{', '.join(BIASES)}."
    ]
