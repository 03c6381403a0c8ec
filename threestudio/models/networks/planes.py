"""Feature planes: the fast encodings on a CPU. A point reads three 2D grids, at (y, x), (z, x) and
(z, y)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.networks.settings import read_settings, too_small

AXES = ((0, 1), (0, 2), (1, 2))


def plane_features(
    planes: Float[Tensor, "3 F R R"], x: Float[Tensor, "N 3"]
) -> Float[Tensor, "3 F N"]:
    """Interpolate the three planes at points of [0, 1]^3; the border values continue outside."""
    coords = torch.stack([x[:, axes] for axes in AXES])[:, None] * 2.0 - 1.0
    return F.grid_sample(planes, coords, align_corners=True, padding_mode="border")[:, :, 0]


class TriPlane(nn.Module):
    """The sum of three planes of `n_features` channels and `resolution` points a side (EG3D)."""

    @dataclass
    class Config:
        n_features: int = 16
        """Channels."""
        resolution: int = 64
        """Points along each side of a plane."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            return too_small(key, self, n_features=1, resolution=1)

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        self.n_input_dims, self.n_output_dims = n_input_dims, cfg.n_features
        shape = (3, cfg.n_features, cfg.resolution, cfg.resolution)
        self.params = nn.Parameter(0.1 * torch.randn(shape))

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Encode points."""
        return plane_features(self.params, x).sum(dim=0).T


class KPlanes(nn.Module):
    """The product of three planes, at every one of `resolutions`, concatenated (Fridovich-Keil et
    al. 2023)."""

    @dataclass
    class Config:
        n_features: int = 8
        """Channels at each resolution."""
        resolutions: tuple[int, ...] = (32, 64)
        """Points along each side of the planes."""

        def faults(self, key: str) -> list[str]:
            """List settings out of range."""
            found = too_small(key, self, n_features=1)
            if not self.resolutions or min(self.resolutions) < 1:
                found.append(f"`{key}.resolutions` needs whole numbers above 0, e.g. [32, 64].")
            return found

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        cfg = read_settings(self.Config, config)
        self.n_input_dims = n_input_dims
        self.n_output_dims = cfg.n_features * len(cfg.resolutions)
        self.params = nn.ParameterList(
            torch.empty(3, cfg.n_features, r, r).uniform_(0.1, 0.5) for r in cfg.resolutions
        )

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Encode points; coarse features first."""
        scales = [plane_features(planes, x) for planes in self.params]
        return torch.cat([s[0] * s[1] * s[2] for s in scales]).T
