"""The interface of backgrounds, and the random colours that several of them use in training."""

from dataclasses import dataclass
from typing import Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseModule
from threestudio.utils.random import stream


class BaseBackground(BaseModule):
    """Colour of rays that pass the scene by."""

    @dataclass
    class Config(BaseModule.Config):
        pass

    cfg: Config

    def configure(self) -> None:
        self.step = 0

    def forward(self, dirs: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B H W C"]:
        """Return the colour of unit directions."""
        raise NotImplementedError

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Remember the step, which numbers the random stream."""
        self.step = global_step

    def random_colors(
        self, n_images: int, channels: int, probability: float, n_share: int
    ) -> Optional[Float[Tensor, "B C"]]:
        """Draw uniform colours with some probability; None otherwise.

        Args:
            n_images: Images in the batch.
            channels: Channels of a colour.
            probability: Chance that the whole batch gets random colours.
            n_share: Consecutive images that share a colour.
        """
        generator = stream("background", self.step)
        if torch.rand((), generator=generator) >= probability:
            return None
        groups = -(-n_images // n_share)
        colors = torch.rand(groups, channels, generator=generator)
        return colors.repeat_interleave(n_share, dim=0)[:n_images]
