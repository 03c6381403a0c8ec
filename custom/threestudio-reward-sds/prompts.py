"""Which prompt a reward reads for an image."""

from typing import Any, List

import torch
from torch import Tensor

from .priors.base import Cameras


def reward_prompts(prompt_utils: Any, cameras: Cameras, view_dependent: bool) -> List[str]:
    """Return one prompt per image: the prompt itself, or the one for the camera's direction.

    Args:
        prompt_utils: Output of the prompt processor (`prompt`, `prompts_vd`, `directions`), or
            `scenes` with one for each scene of the batch.
        cameras: Cameras of the B images.
        view_dependent: Use "..., front view" etc.; the last direction that applies counts.
    """
    scenes = getattr(prompt_utils, "scenes", None) or [prompt_utils]
    per_scene = (
        x.chunk(len(scenes)) for x in (cameras.elevation, cameras.azimuth, cameras.distance)
    )
    views = zip(*per_scene, strict=True)
    return [
        prompt
        for scene, (elevation, azimuth, distance) in zip(scenes, views, strict=True)
        for prompt in _scene_prompts(scene, elevation, azimuth, distance, view_dependent)
    ]


def _scene_prompts(
    prompt_utils: Any, elevation: Tensor, azimuth: Tensor, distance: Tensor, view_dependent: bool
) -> List[str]:
    if not view_dependent:
        return [prompt_utils.prompt] * len(azimuth)
    index = torch.zeros(len(azimuth), dtype=torch.long)
    for direction in prompt_utils.directions:
        applies = direction.condition(elevation, azimuth, distance)
        index[applies.cpu()] = prompt_utils.direction2idx[direction.name]
    return [prompt_utils.prompts_vd[i] for i in index.tolist()]
