"""Functions of tensors."""

from torch import Tensor


def perpendicular_component(x: Tensor, y: Tensor) -> Tensor:
    """Return the part of `x` [B C H W] that is perpendicular to `y`, per image."""
    inner, norm = ((a * y).sum(dim=(1, 2, 3), keepdim=True) for a in (x, y))
    return x - inner / norm.clamp(min=1e-6) * y
