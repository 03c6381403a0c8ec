"""Rewards: frozen scorers of images, higher is better."""

from .aesthetic import AestheticRewardModel
from .base import AbstractRewardModel, RewardError, candidate_rewards
from .clip import CLIPRewardModel
from .composite import CompositeRewardModel
from .hps import HPSRewardModel
from .image_reward import ImageRewardModel
from .pick_score import PickScoreRewardModel
from .python import PythonRewardModel

__all__ = [
    "AbstractRewardModel",
    "AestheticRewardModel",
    "CLIPRewardModel",
    "CompositeRewardModel",
    "HPSRewardModel",
    "PickScoreRewardModel",
    "ImageRewardModel",
    "PythonRewardModel",
    "RewardError",
    "candidate_rewards",
]
