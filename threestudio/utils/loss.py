"""Image losses."""

import torch
from jaxtyping import Float
from torch import Tensor


def tv_loss(x: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Return total variation: twice the mean squared differences in both directions, divided by the
    batch size.
    """
    batch = x.shape[0]
    down = torch.square(x[:, :, 1:] - x[:, :, :-1]).sum() / max(x[0, :, 1:].numel(), 1)
    right = torch.square(x[:, :, :, 1:] - x[:, :, :, :-1]).sum() / max(x[0, :, :, 1:].numel(), 1)
    return 2 * (down + right) / batch
