"""Image preprocessing in plain torch: differentiable, on any device, no detour over PIL."""

from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..model_folders import read_json

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize_and_crop(images: Float[Tensor, "N 3 H W"], size: int) -> Float[Tensor, "N 3 S S"]:
    """Resize the shorter side to `size` (bicubic, antialiased), then crop the centre square."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    target = (max(round(height * scale), size), max(round(width * scale), size))
    if target != (height, width):
        images = F.interpolate(
            images, target, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return images[..., top : top + size, left : left + size]


def normalised(
    images: Float[Tensor, "N 3 H W"], size: int, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "N 3 S S"]:
    """Turn images in [0, 1] into network input: squares of `size`, minus mean, over deviation."""
    pixels = resize_and_crop(images.float(), size)
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1).to(pixels) for values in (mean, std))
    return (pixels - shift) / scale


def preprocessing(path: str, image_size: int) -> Tuple[int, List[float], List[float]]:
    """Return image size, mean and deviation of a model folder; CLIP's where it does not say."""
    config = read_json(path, "preprocessor_config.json") or {}
    size = config.get("crop_size") or config.get("size") or image_size
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height") or image_size
    return (
        int(size),
        [float(value) for value in config.get("image_mean", CLIP_MEAN)],
        [float(value) for value in config.get("image_std", CLIP_STD)],
    )
