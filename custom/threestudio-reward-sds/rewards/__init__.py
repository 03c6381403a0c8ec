"""Rewards: frozen scorers of images, higher is better."""

from .base import AbstractRewardModel, RewardError, candidate_rewards
from .clip import CLIPRewardModel
from .image_reward import ImageRewardModel
from .python import PythonRewardModel

__all__ = [
    "AbstractRewardModel",
    "CLIPRewardModel",
    "ImageRewardModel",
    "PythonRewardModel",
    "RewardError",
    "candidate_rewards",
]
