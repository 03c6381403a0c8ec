"""Colours of Gaussians that depend on the direction they are seen from.

A colour is 0.5 + sum_lm c_lm Y_lm(d), not below 0, with the real spherical harmonics Y (with the
Condon-Shortley phase) at index `l (l + 1) + m`: the order and the signs in the files of 3DGS."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threestudio.models.networks.frequency import spherical_harmonics

MAX_DEGREE = 3
"""Degree of the published method; its files have room for no more."""
CONSTANT = 0.5 / math.sqrt(math.pi)
"""The constant function Y_00."""
BLACK = 0.5 / CONSTANT
"""Minus this is the constant coefficient of black where there are no other bands, and this that of
white. Float32 may round the colour of the first to less than 0, where it has no gradient."""
COLORED = BLACK * (1.0 - 1e-5)
"""Up to this, either way, a colour has a gradient: it is at least 5e-6 away from black and white, a
hundred times the rounding of float32."""
DIRECTIONS = 256
"""Directions, evenly over the sphere, from which `colored` looks."""


def colors(
    harmonics: Float[Tensor, "M K 3"], directions: Float[Tensor, "M 3"]
) -> Float[Tensor, "M 3"]:
    """Return colours, 0 or more.

    Args:
        harmonics: Coefficients of each channel; K is a square number.
        directions: From the camera to the Gaussian, of any length above 0.
    """
    bands = math.isqrt(harmonics.shape[1])
    basis = spherical_harmonics(F.normalize(directions, dim=-1), bands)
    return (0.5 + (basis[..., None] * harmonics).sum(dim=1)).clamp_min(0.0)


def colored(
    constant: Float[Tensor, "P 1 3"], rest: Float[Tensor, "P K 3"]
) -> Float[Tensor, "P 1 3"]:
    """Move constant coefficients as little as colours need to have a gradient: none is black from
    everywhere, or white.

    The other bands are 0 on average, so that they only ever widen the range of the constant.

    Args:
        constant: The constant coefficients.
        rest: Those of the other bands; none at degree 0.
    """
    out = constant.clamp(-COLORED, COLORED)
    rows = (out != constant).flatten(1).any(dim=1).nonzero()[:, 0]
    if rest.shape[1] and len(rows):
        basis = spherical_harmonics(_directions().to(rest), math.isqrt(rest.shape[1] + 1))[:, 1:]
        seen = torch.einsum("dk,pkc->pdc", basis, rest[rows]) / CONSTANT
        low = -COLORED - seen.amax(dim=1, keepdim=True).clamp_min(0.0)
        high = COLORED - seen.amin(dim=1, keepdim=True).clamp_max(0.0)
        out[rows] = constant[rows].clamp(low, high)
    return out


def _directions() -> Float[Tensor, "D 3"]:
    """Return a Fibonacci lattice on the sphere."""
    number = torch.arange(DIRECTIONS) + 0.5
    z, angle = 1.0 - 2.0 * number / DIRECTIONS, math.pi * (1.0 + math.sqrt(5.0)) * number
    radius = (1.0 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], dim=1)


def degree_in_use(rest: Float[Tensor, "P K 3"]) -> int:
    """Return the highest degree of a coefficient that is not 0, given all but the constant ones."""
    used = (rest != 0).any(dim=2).any(dim=0).nonzero()[:, 0]
    return math.isqrt(int(used[-1]) + 1) if len(used) else 0


def rgb_to_harmonics(rgb: Tensor) -> Tensor:
    """Return the coefficient of the constant function that gives a colour in [0, 1]."""
    return (rgb - 0.5) / CONSTANT


def harmonics_to_rgb(harmonics: Tensor) -> Tensor:
    """Return the colour of a coefficient of the constant function, in [0, 1]."""
    return torch.clamp(0.5 + CONSTANT * harmonics, 0.0, 1.0)
