"""`implicit-volume`: density and features from an input encoding and small networks."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.faults import refuse
from threestudio.models.geometry.base import (
    BaseGeometry,
    BaseImplicitGeometry,
    blob_bias,
    contract_to_unisphere,
    descent,
    volume_faults,
)
from threestudio.models.networks import ENCODINGS, NETWORKS, block_faults, get_encoding, get_mlp
from threestudio.registry import register
from threestudio.utils.errors import UserError
from threestudio.utils.ops import get_activation

NORMAL_TYPES = ("pred", "finite_difference", "finite_difference_laplacian", "analytic")
BLOBS = ("blob_magic3d", "blob_dreamfusion")
ONCE_DIFFERENTIABLE = ("KPlanes", "TriPlane")


def default_encoding() -> dict[str, Any]:
    """Return upstream's encoding of positions: 16 levels of 2 features."""
    return {
        "otype": "HashGrid",
        "n_levels": 16,
        "n_features_per_level": 2,
        "log2_hashmap_size": 19,
        "base_resolution": 16,
        "per_level_scale": 1.447269237440378,
    }


def default_network() -> dict[str, Any]:
    """Return upstream's small network."""
    return {
        "otype": "VanillaMLP",
        "activation": "ReLU",
        "output_activation": "none",
        "n_neurons": 64,
        "n_hidden_layers": 1,
    }


def network_faults(cfg: Any) -> list[str]:
    """List what is wrong with a geometry's encoding and networks."""
    blocks = {"pos_encoding_config": ENCODINGS, "mlp_network_config": NETWORKS}
    return [
        fault
        for name, table in blocks.items()
        for fault in block_faults(f"system.geometry.{name}", cfg[name], table)
    ]


def analytic_faults(cfg: Any) -> list[str]:
    """Say so if the encoding cannot be differentiated twice, as analytic normals need."""
    otype = cfg.pos_encoding_config.get("otype")
    if cfg.normal_type != "analytic" or otype not in ONCE_DIFFERENTIABLE:
        return []
    return [
        "`system.geometry.normal_type` analytic needs second derivatives, which the "
        f"encoding {otype} does not have. Set `system.geometry.normal_type` to "
        "finite_difference, or `system.geometry.pos_encoding_config.otype` to HashGrid."
    ]


def copy_parts(source: nn.Module, target: nn.Module, names: Iterable[str]) -> None:
    """Copy the weights of the named parts that both have."""
    for name in names:
        if not (hasattr(source, name) and hasattr(target, name)):
            continue
        try:
            getattr(target, name).load_state_dict(getattr(source, name).state_dict())
        except RuntimeError as error:
            raise UserError(
                f"The {name} of the {type(source).__name__} does not fit into the new geometry. "
                "Give `system.geometry` the encoding, network and feature settings of the run "
                f"that is converted. ({error})"
            ) from error


@register("implicit-volume")
class ImplicitVolume(BaseImplicitGeometry):
    """One encoding, read by a density network, a feature network and, for normals of type pred, a
    third one."""

    @dataclass
    class Config(BaseImplicitGeometry.Config):
        n_input_dims: int = 3
        """Coordinates of a point."""
        n_feature_dims: int = 3
        """Features per point beside the density."""
        density_activation: Optional[str] = "softplus"
        """Name known to `threestudio.utils.ops.get_activation`."""
        density_bias: Any = "blob_magic3d"
        """A number, blob_magic3d or blob_dreamfusion (see `blob_bias`)."""
        density_blob_scale: float = 10.0
        """Height of the blob bias, in units of the raw density."""
        density_blob_std: float = 0.5
        """Width of the blob bias, world units."""
        pos_encoding_config: dict = field(default_factory=default_encoding)
        """Encoding of positions; TriPlane and KPlanes are the fast ones on a CPU."""
        mlp_network_config: dict = field(default_factory=default_network)
        """Networks on top of it."""
        normal_type: Optional[str] = "finite_difference"
        """null, pred, finite_difference, finite_difference_laplacian or analytic; computed only on
        request."""
        finite_difference_normal_eps: float = 0.01
        """Distance of finite differences, world units."""
        isosurface_threshold: Any = 25.0
        """Density of the surface, or "auto"."""
        anneal_density_blob_std_config: Optional[dict] = None
        """`min_anneal_step, max_anneal_step, start_val, end_val`: linear schedule of
        `density_blob_std`. Upstream reads these keys too, but its density ignores them."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        return volume_faults(cfg, BLOBS, NORMAL_TYPES) + network_faults(cfg) + analytic_faults(cfg)

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        refuse(self.check(cfg))
        self.activation = get_activation(cfg.density_activation)
        self.density_blob_std = float(cfg.density_blob_std)
        self.encoding = get_encoding(cfg.n_input_dims, cfg.pos_encoding_config)
        width = self.encoding.n_output_dims
        self.density_network = get_mlp(width, 1, cfg.mlp_network_config)
        if cfg.n_feature_dims > 0:
            self.feature_network = get_mlp(width, cfg.n_feature_dims, cfg.mlp_network_config)
        if cfg.normal_type == "pred":
            self.normal_network = get_mlp(width, 3, cfg.mlp_network_config)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Follow the schedule of the blob's width."""
        plan = self.cfg.anneal_density_blob_std_config
        if plan is not None:
            length = max(plan["max_anneal_step"] - plan["min_anneal_step"], 1)
            share = min(max((global_step - plan["min_anneal_step"]) / length, 0.0), 1.0)
            self.density_blob_std = plan["start_val"] + share * (
                plan["end_val"] - plan["start_val"]
            )

    def encode(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N F"]:
        """Encode world points."""
        return self.encoding(contract_to_unisphere(points, self.bbox, self.unbounded))

    def activate(
        self, raw: Float[Tensor, "*N 1"], points: Float[Tensor, "*N 3"]
    ) -> Float[Tensor, "*N 1"]:
        """Turn raw values into densities per world unit."""
        cfg = self.cfg
        bias = blob_bias(points, cfg.density_bias, cfg.density_blob_scale, self.density_blob_std)
        return self.activation(raw + bias)

    def forward(
        self, points: Float[Tensor, "*N 3"], output_normal: bool = False
    ) -> dict[str, Float[Tensor, "..."]]:
        """Return `density [*N 1]`, `features [*N F]` and, on request, `normal` and `shading_normal
        [*N 3]`."""
        encoded = self.encode(points)
        out = {"density": self.activate(self.density_network(encoded), points)}
        if self.cfg.n_feature_dims > 0:
            out["features"] = self.feature_network(encoded)
        if output_normal and self.cfg.normal_type is not None:
            out["normal"] = out["shading_normal"] = self.normal(points, out["density"], encoded)
        return out

    def forward_density(self, points: Float[Tensor, "*N 3"]) -> Float[Tensor, "*N 1"]:
        """Return the density alone."""
        return self.activate(self.density_network(self.encode(points)), points)

    def normal(
        self,
        points: Float[Tensor, "*N 3"],
        density: Float[Tensor, "*N 1"],
        encoded: Float[Tensor, "*N F"],
    ) -> Float[Tensor, "*N 3"]:
        """Return outward unit normals, the direction in which the density falls fastest."""
        kind, radius = self.cfg.normal_type, float(self.cfg.radius)
        if kind == "pred":
            return F.normalize(self.normal_network(encoded), dim=-1)
        eps = self.cfg.finite_difference_normal_eps
        falls = descent(kind, self.forward_density, points, density, eps, radius)
        return F.normalize(falls, dim=-1)

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
    ) -> "ImplicitVolume":
        """Copy another implicit volume of the same shapes: encoding and density, and all networks
        if `copy_net`."""
        if not isinstance(other, ImplicitVolume):
            raise TypeError(
                f"Cannot create an implicit-volume from a {type(other).__name__}; only from "
                "another implicit-volume."
            )
        made = ImplicitVolume(cfg, **kwargs)
        names = ("feature_network", "normal_network") if copy_net else ()
        copy_parts(other, made, ("encoding", "density_network", *names))
        return made
