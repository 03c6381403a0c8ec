"""The reward's interface, and how a scene is rewarded for its views.

A reward maps images in [0, 1] and one prompt per image to scores, higher is better, any finite
scale. A candidate's reward in a scene is the mean over the scene's V views, never over the batch.
"""

from abc import ABC, abstractmethod
from typing import Any, Dict, List

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.utils.base import BaseObject

from ..errors import UserError


class RewardError(UserError):
    """A reward returned something that cannot weigh candidates."""


class AbstractRewardModel(BaseObject, ABC):
    """One frozen scorer and its preprocessing."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        return []

    @abstractmethod
    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        """Score N images in [0, 1], each against its own prompt; returns N scores."""

    def candidate_scores(
        self,
        images: Float[Tensor, "K B 3 H W"],
        prompts: List[str],
        num_views: int,
        chunk_size: int,
    ) -> Float[Tensor, "K G"]:
        """Score all candidates of all scenes, see `candidate_rewards`.

        For rewards that depend on the other candidates of a scene, which a call does not see.
        """
        return candidate_rewards(self, images, prompts, num_views, chunk_size)

    def report(self) -> Dict[str, Any]:
        """Return scalars of the last `candidate_scores`, logged as `reward_<key>`."""
        return {}


def candidate_rewards(
    model: AbstractRewardModel,
    images: Float[Tensor, "K B 3 H W"],
    prompts: List[str],
    num_views: int,
    chunk_size: int,
) -> Float[Tensor, "K G"]:
    """Score all candidates, `chunk_size` images at a time, and pool each scene over its views.

    Args:
        model: The reward.
        images: Previews of the K candidates of B = G * V images, in [0, 1].
        prompts: One prompt per image, length B.
        num_views: V, views per scene.
        chunk_size: Images per call of the reward.

    Raises:
        RewardError: The reward returned a wrong number of scores, or one that is not finite.
    """
    num_candidates, batch = images.shape[:2]
    flat, repeated = images.flatten(0, 1), prompts * num_candidates
    scores = torch.cat(
        [
            checked_scores(model, flat[i : i + chunk_size], repeated[i : i + chunk_size])
            for i in range(0, len(repeated), chunk_size)
        ]
    ).view(num_candidates, batch)
    bad = (~torch.isfinite(scores)).nonzero()
    if len(bad):
        candidate, image = bad[0].tolist()
        raise RewardError(
            f"The reward of candidate {candidate}, image {image} is "
            f"{scores[candidate, image].item()} ({type(model).__name__}, prompt "
            f"'{prompts[image][:80]}'). Rewards must be finite. Take another "
            "`system.guidance.reward_model_type`."
        )
    return scores.unflatten(1, (-1, num_views)).mean(dim=2)


def checked_scores(
    model: AbstractRewardModel, images: Float[Tensor, "N 3 H W"], prompts: List[str]
) -> Float[Tensor, " N"]:
    """Call the reward and make sure that it returned one number per image, at least float32."""
    scores = model(images, prompts)
    if scores.numel() != len(prompts):
        raise RewardError(
            f"{type(model).__name__} returned {scores.numel()} scores (shape "
            f"{list(scores.shape)}) for {len(prompts)} images. A reward returns one score "
            "per image."
        )
    scores = scores.detach().reshape(len(prompts)).to(images.device)
    return scores if scores.dtype == torch.float64 else scores.float()
