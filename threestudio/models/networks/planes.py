"""Feature planes: the fast encodings on a CPU. A point reads three 2D grids, at (y, x), (z, x) and
(z, y)."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

AXES = ((0, 1), (0, 2), (1, 2))


def plane_features(
    planes: Float[Tensor, "3 F R R"], x: Float[Tensor, "N 3"]
) -> Float[Tensor, "3 F N"]:
    """Interpolate the three planes at points of [0, 1]^3; the border values continue outside."""
    coords = torch.stack([x[:, axes] for axes in AXES])[:, None] * 2.0 - 1.0
    return F.grid_sample(planes, coords, align_corners=True, padding_mode="border")[:, :, 0]


class TriPlane(nn.Module):
    """The sum of three planes of `n_features` channels and `resolution` points a side (EG3D)."""

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        self.n_input_dims = n_input_dims
        self.n_output_dims = int(config.get("n_features", 16))
        resolution = int(config.get("resolution", 64))
        shape = (3, self.n_output_dims, resolution, resolution)
        self.params = nn.Parameter(0.1 * torch.randn(shape))

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Encode points."""
        return plane_features(self.params, x).sum(dim=0).T


class KPlanes(nn.Module):
    """The product of three planes, at every one of `resolutions`, concatenated (Fridovich-Keil et
    al. 2023)."""

    def __init__(self, n_input_dims: int, config: Any) -> None:
        super().__init__()
        self.n_input_dims = n_input_dims
        features = int(config.get("n_features", 8))
        resolutions = [int(r) for r in config.get("resolutions", (32, 64))]
        self.n_output_dims = features * len(resolutions)
        self.params = nn.ParameterList(
            torch.empty(3, features, r, r).uniform_(0.1, 0.5) for r in resolutions
        )

    def forward(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N F"]:
        """Encode points; coarse features first."""
        scales = [plane_features(planes, x) for planes in self.params]
        return torch.cat([s[0] * s[1] * s[2] for s in scales]).T
