"""What a prior says about noisy latents, and the only formula of guidance.

Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968) pushes a view of the object away from the other
views: of each negative prompt it takes the part that is perpendicular to the prompt itself, over
all pixels and channels of an image.
"""

from dataclasses import dataclass
from functools import partial
from typing import Tuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.utils.ops import perpendicular_component


@dataclass(frozen=True)
class NoisePrediction:
    """The network's noise prediction with and without the prompt, and for negative prompts."""

    cond: Float[Tensor, "*N c h w"]
    """eps_c, given the prompt."""
    uncond: Float[Tensor, "*N c h w"]
    """eps_u, given the negative prompt of all views."""
    negatives: Tuple[Float[Tensor, "*N c h w"], ...] = ()
    """eps_i, given Perp-Neg's negative prompts; empty without Perp-Neg."""
    negative_weights: Tuple[Float[Tensor, "B 1 1 1"], ...] = ()
    """w_i of each of them, per image; normally below 0."""

    def guided(self, scale: float) -> Float[Tensor, "*N c h w"]:
        """Apply guidance; written only here.

        `eps_u + scale e_c` with `e_x = eps_x - eps_u` is classifier-free guidance; Perp-Neg is
        `eps_u + scale (e_c + sum_i w_i perp(e_i, e_c))`.
        """
        direction = towards = self.cond - self.uncond
        for weight, negative in zip(self.negative_weights, self.negatives, strict=True):
            direction = direction + weight * _perpendicular(negative - self.uncond, towards)
        return self.uncond + scale * direction

    def where(self, mask: Bool[Tensor, "*N"], other: "NoisePrediction") -> "NoisePrediction":
        """Take this prediction where `mask` is true, else `other`, of the same step."""
        choose = partial(torch.where, mask[..., None, None, None])
        return NoisePrediction(
            choose(self.cond, other.cond),
            choose(self.uncond, other.uncond),
            tuple(map(choose, self.negatives, other.negatives)),
            self.negative_weights,
        )


def _perpendicular(
    x: Float[Tensor, "*N c h w"], y: Float[Tensor, "*N c h w"]
) -> Float[Tensor, "*N c h w"]:
    """Return the part of each image of `x` that is perpendicular to the one of `y`."""
    return perpendicular_component(x.flatten(0, -4), y.flatten(0, -4)).view_as(x)
