"""Candidate sheets: the previews of one step with their rewards and weights, best first.

Nobody trusts rewards unseen. A sheet is a list of rows for threestudio's `save_image_grid`, one row
per scene and candidate: a label, then the V views.
"""

from dataclasses import dataclass
from typing import Any, Dict, List

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

MIN_SIZE = 128
"""Small previews are enlarged to about this height, so that labels are readable."""

FOLLOWED, AVOIDED, UNUSED = (200, 235, 200), (245, 205, 200), (240, 240, 240)


@dataclass(frozen=True)
class CandidateSheet:
    """What one step saw, on the CPU."""

    images: Float[Tensor, "K B 3 H W"]
    """Previews in [0, 1]."""
    rewards: Float[Tensor, "K G"]
    weights: Float[Tensor, "K G"]
    timesteps: Any
    """One per scene."""

    def rows(self) -> List[List[Dict[str, Any]]]:
        """Return the rows for `save_image_grid`, scene by scene, best candidate first."""
        num_scenes = self.rewards.shape[1]
        images = enlarge(self.images)
        scenes = images.unflatten(1, (num_scenes, -1))  # [K G V 3 H W]
        rows = []
        for scene in range(num_scenes):
            for candidate in self.rewards[:, scene].argsort(descending=True).tolist():
                views = [cell(view.permute(1, 2, 0)) for view in scenes[candidate, scene]]
                rows.append([self._label(candidate, scene, images.shape[-2]), *views])
        return rows

    def _label(self, candidate: int, scene: int, height: int) -> Dict[str, Any]:
        reward, weight = (
            self.rewards[candidate, scene].item(),
            self.weights[candidate, scene].item(),
        )
        lines = [
            f"scene {scene}, t {int(self.timesteps[scene])}",
            f"candidate {candidate}",
            f"reward {reward:.3f}",
            f"weight {weight:+.3f}",
        ]
        color = FOLLOWED if weight > 0 else AVOIDED if weight < 0 else UNUSED
        picture = Image.new("RGB", (height, height), color)
        font = ImageFont.load_default(size=max(height // 10, 10))
        ImageDraw.Draw(picture).multiline_text((6, 6), "\n".join(lines), fill=(0, 0, 0), font=font)
        return cell(torch.from_numpy(np.array(picture)).float() / 255)


def enlarge(images: Float[Tensor, "K B 3 H W"]) -> Float[Tensor, "K B 3 h w"]:
    """Repeat pixels of images that are smaller than `MIN_SIZE`."""
    factor = max(round(MIN_SIZE / images.shape[-2]), 1)
    larger = F.interpolate(images.flatten(0, 1), scale_factor=factor, mode="nearest")
    return larger.unflatten(0, images.shape[:2])


def cell(image: Float[Tensor, "H W 3"]) -> Dict[str, Any]:
    """Return an RGB cell of `save_image_grid`."""
    return {"type": "rgb", "img": image, "kwargs": {"data_format": "HWC", "data_range": (0, 1)}}
