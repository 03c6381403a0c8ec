"""`no-material`: features are the colour, without light."""

from dataclasses import dataclass
from typing import Any, Optional

from jaxtyping import Float
from torch import Tensor

from threestudio.models.faults import activation_faults, refuse
from threestudio.models.materials.base import BaseMaterial
from threestudio.models.networks import NETWORKS, block_faults, get_mlp
from threestudio.registry import register
from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import get_activation


@register("no-material")
class NoMaterial(BaseMaterial):
    """Colour is an activation of the features, or of a small network on them."""

    @dataclass
    class Config(BaseMaterial.Config):
        n_output_dims: int = 3
        """Channels of the colour."""
        color_activation: Optional[str] = "sigmoid"
        """Name known to `threestudio.utils.ops.get_activation`."""
        input_feature_dims: Optional[int] = None
        """Features that the network takes; only together with `mlp_network_config`."""
        mlp_network_config: Optional[dict] = None
        """A network from features to colour; null uses the features themselves."""
        requires_normal: bool = False
        """Whether the renderer shall compute normals although no light needs them."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        key = "system.material"
        faults = activation_faults(f"{key}.color_activation", cfg.color_activation)
        if cfg.mlp_network_config is not None:
            faults += block_faults(f"{key}.mlp_network_config", cfg.mlp_network_config, NETWORKS)
        return faults

    def configure(self) -> None:
        cfg = self.cfg
        refuse(self.check(cfg))
        self.use_network = cfg.input_feature_dims is not None and cfg.mlp_network_config is not None
        if self.use_network:
            self.network = get_mlp(
                cfg.input_feature_dims, cfg.n_output_dims, cfg.mlp_network_config
            )
        self.requires_normal = cfg.requires_normal
        self.activation = get_activation(cfg.color_activation)

    def forward(self, features: Float[Tensor, "*N F"], **kwargs: Any) -> Float[Tensor, "*N C"]:
        """Return colours, in [0, 1] with the default activation."""
        if self.use_network:
            flat = self.network(features.reshape(-1, features.shape[-1]))
            return self.activation(flat.reshape(*features.shape[:-1], self.cfg.n_output_dims))
        if features.shape[-1] != self.cfg.n_output_dims:
            raise ConfigError(
                f"The geometry has {features.shape[-1]} features, but no-material makes "
                f"{self.cfg.n_output_dims} colour channels of them. Set "
                f"`system.geometry.n_feature_dims` to {self.cfg.n_output_dims}, or give the "
                "material a network (`input_feature_dims` and `mlp_network_config`)."
            )
        return self.activation(features)

    def export(self, features: Float[Tensor, "*N F"], **kwargs: Any) -> dict[str, Any]:
        """Return the albedo: the first three channels, clamped to [0, 1]."""
        return {"albedo": self(features, **kwargs)[..., :3].clamp(0.0, 1.0)}
