"""Rewards: frozen scorers of images, higher is better."""

from .base import AbstractRewardModel, RewardError, candidate_rewards
from .clip import CLIPRewardModel
from .python import PythonRewardModel

__all__ = [
    "AbstractRewardModel",
    "CLIPRewardModel",
    "PythonRewardModel",
    "RewardError",
    "candidate_rewards",
]
