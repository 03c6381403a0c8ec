"""Which prompt a reward reads for an image."""

from typing import Any, List

import torch

from .priors.base import Cameras


def reward_prompts(prompt_utils: Any, cameras: Cameras, view_dependent: bool) -> List[str]:
    """Return one prompt per image: the prompt itself, or the one for the camera's direction.

    Args:
        prompt_utils: Output of the prompt processor (`prompt`, `prompts_vd`, `directions`).
        cameras: Cameras of the B images.
        view_dependent: Use "..., front view" etc.; the last direction that applies counts.
    """
    batch = cameras.azimuth.shape[0]
    if not view_dependent:
        return [prompt_utils.prompt] * batch
    index = torch.zeros(batch, dtype=torch.long)
    for direction in prompt_utils.directions:
        applies = direction.condition(cameras.elevation, cameras.azimuth, cameras.distance)
        index[applies.cpu()] = prompt_utils.direction2idx[direction.name]
    return [prompt_utils.prompts_vd[i] for i in index.tolist()]
