"""Pictures made worse on purpose: what unfinished NeRFs and blurred decoders look like."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def soften(
    images: Float[Tensor, "N 3 h w"], generator: torch.Generator
) -> Float[Tensor, "N 3 h w"]:
    """Blur, stain, speckle, shift and fade pictures, for the judge and the reward.

    Args:
        images: RGB in [0, 1]; so is the result.
        generator: Source of randomness.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(len(images), *shape, generator=generator)

    size = images.shape[-2:]
    fine = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    coarse = _resized(F.avg_pool2d(images, 4), size, "bilinear")
    blurred = torch.where(rand(1, 1, 1) < 0.5, fine, coarse)
    softened = images.lerp(blurred, rand(1, 1, 1) * (rand(1, 1, 1) < 0.75))
    stains = _resized(rand(3, 8, 8) - 0.5, size, "bicubic")
    speckles = torch.randn(images.shape, generator=generator)
    softened = softened + 0.25 * rand(1, 1, 1) * stains + 0.04 * rand(1, 1, 1) * speckles
    contrast, tint = 0.75 + 0.4 * rand(1, 1, 1), 0.1 * (rand(3, 1, 1) - 0.5)
    softened = (softened - 0.5) * contrast + 0.5 + tint
    shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return softened.roll(shift, dims=(-2, -1)).clamp(0, 1)


def disturb(
    images: Float[Tensor, "N 3 h w"], generator: torch.Generator
) -> Float[Tensor, "N 3 h w"]:
    """Patch, blend or blur a third of the pictures, for the autoencoder.

    Args:
        images: RGB in [0, 1]; so is the result.
        generator: Source of randomness.
    """

    def rand(*shape: int) -> Tensor:
        return torch.rand(len(images), *shape, generator=generator)

    size = images.shape[-2:]
    mask = _resized(rand(1, 6, 6), size, "bicubic") - 0.4 - 0.4 * rand(1, 1, 1)
    patches = _resized(rand(3, 8, 8), size, "bicubic").clamp(0, 1)
    patched = images.lerp(patches, (6 * mask).clamp(0, 1))
    blended = images.lerp(images.roll(1, dims=0), rand(1, 1, 1))
    grain = _resized(rand(3, size[0] // 2, size[1] // 2) - 0.5, size, "nearest")
    blurred = _resized(F.avg_pool2d(images, 4), size, "bilinear") + 0.1 * grain
    kind = 9 * rand(1, 1, 1)
    disturbed = torch.where(kind < 1, patched, torch.where(kind < 2, blended, blurred))
    return torch.where(kind < 3, disturbed, images).clamp(0, 1)


def _resized(images: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    options = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(images, size, mode=mode, **options)
