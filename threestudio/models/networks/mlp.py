"""Small multi-layer perceptrons; they compute in float32 whatever autocast says."""

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.faults import activation_faults
from threestudio.models.networks.settings import read_settings, too_small
from threestudio.utils.errors import CheckpointError
from threestudio.utils.ops import get_activation


@dataclass(kw_only=True)
class MLPConfig:
    """What the two networks share."""

    n_neurons: int
    """Width of the hidden layers."""
    n_hidden_layers: int
    """Number of hidden layers."""
    activation: str = "ReLU"
    """Between the layers of tiny-cuda-nn's networks; ours have their own there."""
    output_activation: Optional[str] = None
    """Name known to `threestudio.utils.ops.get_activation`."""

    def faults(self, key: str) -> list[str]:
        """List settings out of range."""
        found = too_small(key, self, n_neurons=1, n_hidden_layers=0)
        return found + activation_faults(f"{key}.output_activation", self.output_activation)


class VanillaMLP(nn.Module):
    """Linear layers without bias, ReLU between them, `output_activation` at the end."""

    Config = MLPConfig

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        sizes = [dim_in] + [cfg.n_neurons] * cfg.n_hidden_layers + [dim_out]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(n_in, n_out, bias=False), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_activation = get_activation(cfg.output_activation)
        self.register_load_state_dict_pre_hook(_refuse_fused)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Apply the layers."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))


def _refuse_fused(module: nn.Module, state: dict[str, Any], prefix: str, *args: Any) -> None:
    if f"{prefix}network.params" in state:
        raise CheckpointError(
            f"The checkpoint's network `{prefix}network` was computed by tiny-cuda-nn, which has "
            "another layout of parameters than plain torch, which computes it here. Use it on CUDA "
            "with tinycudann installed and `otype` FullyFusedMLP or CutlassMLP, as it was trained."
        )


class SphereInitVanillaMLP(nn.Module):
    """A weight-normalised network that starts as the signed distance to a sphere (IGR, SAL)."""

    @dataclass(kw_only=True)
    class Config(MLPConfig):
        sphere_init_radius: float
        """Radius of the sphere, in units of the input."""
        inside_out: bool = False
        """Whether the distance is positive inside."""

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        sizes = [dim_in] + [cfg.n_neurons] * cfg.n_hidden_layers + [dim_out]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = self._linear(n_in, n_out, cfg, first=i == 0, last=i == len(sizes) - 2)
            layers += [linear, nn.Softplus(beta=100)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_activation = get_activation(cfg.output_activation)

    @staticmethod
    def _linear(n_in: int, n_out: int, cfg: Any, first: bool, last: bool) -> nn.Module:
        linear = nn.Linear(n_in, n_out)
        with torch.no_grad():
            if last:
                sign = -1.0 if cfg.inside_out else 1.0
                linear.bias.fill_(-sign * cfg.sphere_init_radius)
                linear.weight.normal_(sign * math.sqrt(math.pi / n_in), 1e-4)
            else:
                linear.bias.zero_()
                linear.weight.normal_(0.0, math.sqrt(2.0 / n_out))
                if first:
                    linear.weight[:, 3:] = 0.0
        return nn.utils.parametrizations.weight_norm(linear)

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Apply the layers."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))
