"""`textured-background`: a picture of all directions that is optimised."""

import math
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.background.base import BaseBackground
from threestudio.models.faults import activation_faults, count_faults, refuse
from threestudio.registry import register
from threestudio.utils.ops import get_activation


@register("textured-background")
class TexturedBackground(BaseBackground):
    """A texture over the sphere of directions: its width runs from +z to -z, its height once round
    the azimuth."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        """Channels of the colour."""
        height: int = 64
        """Texels round the azimuth."""
        width: int = 64
        """Texels from pole to pole."""
        color_activation: Optional[str] = "sigmoid"
        """Name known to `threestudio.utils.ops.get_activation`."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        key = "system.background"
        faults = count_faults(key, cfg, "height", "width", "n_output_dims")
        return faults + activation_faults(f"{key}.color_activation", cfg.color_activation)

    def configure(self) -> None:
        super().configure()
        cfg = self.cfg
        refuse(self.check(cfg))
        self.texture = nn.Parameter(torch.randn(1, cfg.n_output_dims, cfg.height, cfg.width))
        self.activation = get_activation(cfg.color_activation)

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        """Return the colour of directions of any length."""
        x, y, z = dirs.reshape(-1, 3).unbind(-1)
        polar = torch.atan2(torch.hypot(x, y), z) / math.pi
        azimuth = torch.atan2(y, x) / (2.0 * math.pi) + 0.5
        places = torch.stack([polar, azimuth], dim=-1) * 2.0 - 1.0
        color = F.grid_sample(
            self.texture, places[None, None], padding_mode="border", align_corners=False
        )
        return self.activation(color[0, :, 0].T).reshape(*dirs.shape[:3], self.cfg.n_output_dims)
