"""Several rewards as one: each standardised over the candidates of a scene, then weighted."""

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..settings import component_faults, find_role, plain
from .base import AbstractRewardModel, RewardError

KEY = "system.guidance.reward_model"
"""Where the YAML has a reward's settings; parts speak as if theirs stood there."""

EXAMPLE = f'`{KEY}: {{parts: {{clip: {{type: "clip", weight: 1.0, settings: {{}}}}}}}}`'

RESERVED = {"std"}
"""Part names whose log entry `reward_<name>` is taken."""


class Part:
    """One entry of `parts`."""

    @dataclass
    class Config:
        type: str = ""
        """The reward, as in `reward_model_type`."""
        weight: float = 1.0
        """Factor of the standardised reward; a negative one prefers low scores."""
        settings: dict = field(default_factory=dict)
        """The reward's own settings."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        return []


def relocated(text: str, name: str) -> str:
    """Rewrite a message of a part's reward: name the part, and the keys where they stand."""
    place = f"{KEY}.parts.{name}"
    text = text.replace(f"{KEY}.", f"{place}.settings.").replace(f"{KEY}_type", f"{place}.type")
    return f"Part '{name}' of the composite reward: {text}"


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Let every error of the user's name the part that it came from."""
    try:
        yield
    except UserError as error:
        raise type(error)(relocated(str(error), name)) from error


def part_faults(name: str, block: Any) -> List[str]:
    """List what is wrong with one part, its reward's settings included, without loading it."""
    place = f"{KEY}.parts.{name}"
    if not isinstance(block, dict):
        return [f"`{place}` is {block!r}, but must be a block. Example: {EXAMPLE}."]
    values, faults = component_faults(Part, block, place)
    if name in RESERVED:
        faults.append(f"`{place}`: the log entry `reward_{name}` is taken. Rename the part.")
    if not math.isfinite(values["weight"]):
        faults.append(f"`{place}.weight` is {values['weight']}, but must be a finite number.")
    if not values["type"]:
        return [*faults, f"`{place}.type` is not set. Example: {EXAMPLE}."]
    found, fault = find_role("reward_model", values["type"])
    nested = [fault] if found is None else component_faults(found, values["settings"], KEY)[1]
    return faults + [relocated(text, name) for text in nested]


def standardised(rewards: Float[Tensor, "K G"], min_std: float) -> Float[Tensor, "K G"]:
    """Return z-scores over the K candidates of each scene: minus mean, over deviation.

    The deviation is that of the K values themselves (divided by K, not K - 1), and `min_std` where
    it is smaller.
    """
    deviation = rewards.std(dim=0, correction=0, keepdim=True).clamp(min=min_std)
    return (rewards - rewards.mean(dim=0, keepdim=True)) / deviation


@threestudio.register("reward-model-composite")
class CompositeRewardModel(AbstractRewardModel):
    """Weighted sum of rewards, each as z-scores over the K candidates of a scene.

    Scales of the parts so do not matter, only their weights do. Every part's mean before that is
    logged as `reward_<part>`.
    """

    @dataclass
    class Config(BaseObject.Config):
        parts: dict = field(default_factory=dict)
        """Name of each part, freely chosen -> `{type, weight, settings}`: its reward as in
        `reward_model_type`, its weight (1), and the reward's settings."""
        min_std: float = 1e-3
        """Smallest deviation that rewards are divided by, in the units of each part: candidates
        that differ by less count as nearly equal."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults, parts = [], plain(cfg.parts)
        if not (math.isfinite(cfg.min_std) and cfg.min_std > 0):
            faults.append(f"`{KEY}.min_std` is {cfg.min_std}, but must be a number above 0.")
        if not parts:
            faults.append(f"`{KEY}.parts` is empty. Name one reward or more. Example: {EXAMPLE}.")
        return faults + [fault for name in parts for fault in part_faults(name, parts[name])]

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        self.parts: Dict[str, AbstractRewardModel] = {}
        self.weights: Dict[str, float] = {}
        for name, block in plain(self.cfg.parts).items():
            values, _ = component_faults(Part, block, name)
            found, _ = find_role("reward_model", values["type"])
            with speaking_of(name):
                self.parts[name] = found(values["settings"])
            self.weights[name] = values["weight"]
        self._means: Dict[str, Tensor] = {}

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        for part in self.parts.values():
            part.do_update_step(epoch, global_step, on_load_weights)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        raise RewardError(
            "The composite reward compares the candidates of a scene, so it has no score of single "
            "images. Call `candidate_scores`, or score the images by one of its parts."
        )

    def candidate_scores(
        self,
        images: Float[Tensor, "K B 3 H W"],
        prompts: List[str],
        num_views: int,
        chunk_size: int,
    ) -> Float[Tensor, "K G"]:
        """Score all candidates by every part, and return the weighted sum of z-scores."""
        terms, self._means = [], {}
        for name, part in self.parts.items():
            with speaking_of(name):
                raw = part.candidate_scores(images, prompts, num_views, chunk_size)
            self._means[name] = raw.mean()
            terms.append(self.weights[name] * standardised(raw, self.cfg.min_std))
        return torch.stack(terms).sum(dim=0)

    def report(self) -> Dict[str, Any]:
        nested = {
            f"{name}_{key}": value
            for name, part in self.parts.items()
            for key, value in part.report().items()
        }
        return {**self._means, **nested}
