"""Covariances of Gaussians by their scales and rotations (Kerbl et al. 2023, section 4)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rotation_matrices(quaternions: Float[Tensor, "N 4"]) -> Float[Tensor, "N 3 3"]:
    """Return the rotations of quaternions (w, x, y, z) of any length above 0."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def scaled_axes(
    scales: Float[Tensor, "N 3"], quaternions: Float[Tensor, "N 4"]
) -> Float[Tensor, "N 3 3"]:
    """Return the axes of Gaussians as rows, one standard deviation long.

    The covariance is the sum of their outer products, `A^T A`."""
    return (rotation_matrices(quaternions) * scales[:, None, :]).transpose(1, 2)


def covariances(
    scales: Float[Tensor, "N 3"], quaternions: Float[Tensor, "N 4"]
) -> Float[Tensor, "N 3 3"]:
    """Return `R S S^T R^T` (Kerbl et al. 2023, equation 6)."""
    axes = scaled_axes(scales, quaternions)
    return axes.transpose(1, 2) @ axes
