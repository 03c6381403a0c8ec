"""The part of an image that is perpendicular to another."""

from torch import Tensor


def perpendicular_component(x: Tensor, y: Tensor) -> Tensor:
    """Return `x - <x, y> / <y, y> y` of each image [N c h w]."""
    axes = (1, 2, 3)
    share = (x * y).sum(axes, keepdim=True) / (y * y).sum(axes, keepdim=True).clamp(min=1e-6)
    return x - share * y
