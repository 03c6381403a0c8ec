"""Encodings and networks by the `otype` of their configuration."""

from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from threestudio.models.faults import refuse
from threestudio.models.networks import tcnn
from threestudio.models.networks.frequency import (
    Frequency,
    ProgressiveBandFrequency,
    SphericalHarmonics,
)
from threestudio.models.networks.hash_grid import HashGrid, ProgressiveBandHashGrid, hash_grid
from threestudio.models.networks.mlp import SphereInitVanillaMLP, VanillaMLP
from threestudio.models.networks.planes import KPlanes, TriPlane
from threestudio.models.networks.settings import own_settings
from threestudio.utils.base import Updateable

ENCODINGS = {
    "Frequency": Frequency,
    "HashGrid": HashGrid,
    "KPlanes": KPlanes,
    "ProgressiveBandFrequency": ProgressiveBandFrequency,
    "ProgressiveBandHashGrid": ProgressiveBandHashGrid,
    "SphericalHarmonics": SphericalHarmonics,
    "TriPlane": TriPlane,
}
"""Every encoding that a YAML can name."""
NETWORKS = {
    "CutlassMLP": VanillaMLP,
    "FullyFusedMLP": VanillaMLP,
    "SphereInitVanillaMLP": SphereInitVanillaMLP,
    "VanillaMLP": VanillaMLP,
}
"""Every network that a YAML can name; tiny-cuda-nn's two are its own on CUDA where it is installed,
and computed in plain torch elsewhere."""
FUSED = ("CutlassMLP", "FullyFusedMLP")
WRAPPED = ("HashGrid", "SphericalHarmonics", "Frequency")


class Float32Encoding(nn.Module):
    """Compute an encoding in float32 under autocast; also gives its parameters upstream's names."""

    def __init__(self, encoding: nn.Module) -> None:
        super().__init__()
        self.encoding = encoding
        self.n_input_dims, self.n_output_dims = encoding.n_input_dims, encoding.n_output_dims

    def forward(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N F"]:
        """Encode points."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return tcnn.apply(self.encoding, x.float())


class CompositeEncoding(nn.Module, Updateable):
    """An encoding, after the point itself scaled to [-1, 1] if `include_xyz`."""

    def __init__(
        self,
        encoding: nn.Module,
        include_xyz: bool = False,
        xyz_scale: float = 2.0,
        xyz_offset: float = -1.0,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.include_xyz, self.xyz_scale, self.xyz_offset = include_xyz, xyz_scale, xyz_offset
        self.n_input_dims = encoding.n_input_dims
        self.n_output_dims = encoding.n_output_dims + int(include_xyz) * encoding.n_input_dims

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Encode points of [0, 1]."""
        flat = x.reshape(-1, x.shape[-1])
        parts = [flat * self.xyz_scale + self.xyz_offset] if self.include_xyz else []
        encoded = torch.cat([*parts, self.encoding(flat)], dim=-1)
        return encoded.reshape(*x.shape[:-1], self.n_output_dims)


class NetworkWithInputEncoding(nn.Module, Updateable):
    """An encoding followed by a network."""

    def __init__(self, encoding: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.encoding, self.network = encoding, network

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Encode points of [0, 1] and apply the network."""
        return self.network(self.encoding(x))


class ToDTypeWrapper(nn.Module):
    """Cast the output of a module."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Apply the module."""
        return self.module(x).to(self.dtype)


def open_config(config: Any) -> DictConfig:
    """Return a configuration as a DictConfig with attribute access."""
    return config if isinstance(config, DictConfig) else OmegaConf.create(dict(config))


def block_faults(key: str, block: Any, table: dict[str, type]) -> list[str]:
    """List what is wrong with the block of an encoding or a network.

    Args:
        key: Place of the block in the YAML.
        block: Mapping of settings.
        table: `ENCODINGS` or `NETWORKS`.
    """
    otype = block.get("otype")
    if not isinstance(otype, str) or otype not in table:
        return [f"`{key}.otype` is {otype!r}; available: {', '.join(sorted(table))}."]
    faults = own_settings(table[otype].Config, block, key)[1]
    if not isinstance(block.get("include_xyz", False), bool):
        faults.append(f"`{key}.include_xyz` is {block['include_xyz']!r}; it must be true or false.")
    return faults


def get_encoding(n_input_dims: int, config: Any) -> CompositeEncoding:
    """Build an encoding of points in [0, 1].

    Args:
        n_input_dims: Dimensions of a point.
        config: `otype`, a name in `ENCODINGS`; the encoding's own keys; `include_xyz`.
    """
    config = open_config(config)
    refuse(block_faults("encoding", config, ENCODINGS))
    make = hash_grid if config.otype == "HashGrid" else ENCODINGS[config.otype]
    encoding = make(n_input_dims, config)
    wrapped = Float32Encoding(encoding) if config.otype in WRAPPED else encoding
    return CompositeEncoding(wrapped, include_xyz=config.get("include_xyz", False))


def get_mlp(n_input_dims: int, n_output_dims: int, config: Any) -> nn.Module:
    """Build a network.

    Args:
        n_input_dims: Features that go in.
        n_output_dims: Features that come out.
        config: `otype`, a name in `NETWORKS`; `n_neurons`, `n_hidden_layers`, `output_activation`.
    """
    config = open_config(config)
    refuse(block_faults("network", config, NETWORKS))
    fused = config.otype in FUSED and tcnn.available()
    make = tcnn.TCNNNetwork if fused else NETWORKS[config.otype]
    return make(n_input_dims, n_output_dims, config)


def create_network_with_input_encoding(
    n_input_dims: int, n_output_dims: int, encoding_config: Any, network_config: Any
) -> NetworkWithInputEncoding:
    """Build an encoding and a network on top of it."""
    encoding = get_encoding(n_input_dims, encoding_config)
    network = get_mlp(encoding.n_output_dims, n_output_dims, network_config)
    return NetworkWithInputEncoding(encoding, network)
