"""`solid-color-background`: one colour for all rays of an image."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threestudio.models.background.base import BaseBackground
from threestudio.models.faults import color_faults, count_faults, probability_faults, refuse
from threestudio.registry import register


@register("solid-color-background")
class SolidColorBackground(BaseBackground):
    """A fixed, learnt or random colour; evaluation always shows `color`."""

    @dataclass
    class Config(BaseBackground.Config):
        n_output_dims: int = 3
        """Channels of the colour."""
        color: Any = (1.0, 1.0, 1.0)
        """The colour, `n_output_dims` numbers in [0, 1]."""
        learned: bool = False
        """Whether `color` is only the start of a parameter."""
        random_aug: bool = False
        """Whether training replaces the colour by random ones."""
        random_aug_prob: float = 0.5
        """Chance of that per batch."""
        n_view_share: int = 1
        """Consecutive images of a batch that share a random colour; n_view gives every scene its
        own."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        key = "system.background"
        faults = color_faults(f"{key}.color", cfg.color, cfg.n_output_dims)
        faults += count_faults(key, cfg, "n_view_share")
        return faults + probability_faults(key, cfg, "random_aug_prob")

    def configure(self) -> None:
        super().configure()
        refuse(self.check(self.cfg))
        color = torch.as_tensor([float(c) for c in self.cfg.color])
        if self.cfg.learned:
            self.env_color = nn.Parameter(color)
        else:
            self.register_buffer("env_color", color)

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        """Return the colour for every direction."""
        cfg, size = self.cfg, dirs.shape[:3]
        color = self.env_color.expand(size[0], -1)
        if self.training and cfg.random_aug:
            drawn = self.random_colors(
                size[0], cfg.n_output_dims, cfg.random_aug_prob, cfg.n_view_share
            )
            # times 0: every parameter stays in the graph, as DDP wants it
            color = color if drawn is None else color * 0.0 + drawn.to(color)
        return color[:, None, None, :].expand(*size, -1)
