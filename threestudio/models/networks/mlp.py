"""Small multi-layer perceptrons; they compute in float32 whatever autocast says."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.utils.ops import get_activation


class VanillaMLP(nn.Module):
    """Linear layers without bias, ReLU between them, `output_activation` at the end."""

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        width, depth = int(config.n_neurons), int(config.n_hidden_layers)
        sizes = [dim_in] + [width] * depth + [dim_out]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(n_in, n_out, bias=False), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_activation = get_activation(config.get("output_activation", None))

    def forward(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N F"]:
        """Apply the layers."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.output_activation(self.layers(x.float()))


class SphereInitVanillaMLP(nn.Module):
    """A weight-normalised network that starts as the signed distance to a sphere (IGR, SAL).

    Keys: `sphere_init_radius`, `inside_out`, `n_neurons`, `n_hidden_layers`, `output_activation`.
    """

    def __init__(self, dim_in: int, dim_out: int, config: Any) -> None:
        super().__init__()
        width, depth = int(config.n_neurons), int(config.n_hidden_layers)
        sizes = [dim_in] + [width] * depth + [dim_out]
        layers: list[nn.Module] = []
        for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = self._linear(n_in, n_out, config, first=i == 0, last=i == len(sizes) - 2)
            layers += [linear, nn.Softplus(beta=100)]
        self.layers = nn.Sequential(*layers[:-1])
        self.output_activation = get_activation(config.get("output_activation", None))

    @staticmethod
    def _linear(n_in: int, n_out: int, config: Any, first: bool, last: bool) -> nn.Module:
        linear = nn.Linear(n_in, n_out)
        radius, inside_out = float(config.sphere_init_radius), bool(config.get("inside_out", False))
        with torch.no_grad():
            if last:
                sign = -1.0 if inside_out else 1.0
                linear.bias.fill_(-sign * radius)
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
