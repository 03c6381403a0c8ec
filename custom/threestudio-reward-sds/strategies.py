"""Strategies: from the rewards of K candidates to the weights of their gradients.

Rewards and weights are [K G]: each scene (column) is weighed on its own. Higher rewards are better.
Every strategy states the sum of its weights over K, because that sum scales the whole gradient: the
plain objective has 1, the paper's default 0.8 (the official code's
`0.9 mean(best two) - 0.1 mean(worst two)`; Eq. 4 as printed would give 1.6 / K).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, List

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from .errors import UserError, refuse
from .streams import Generators, draw


def min_max_weights(
    rewards: Float[Tensor, "K G"], num_best: int, num_worst: int, lambda_best: float
) -> Float[Tensor, "K G"]:
    """Pull towards the best candidates and push away from the worst.

    Within each scene the `num_best` highest rewards share `+lambda_best`, the `num_worst` lowest
    share `-(1 - lambda_best)`, all others get 0 (RewardSDS, Table 5). Ties keep candidate order.

    Args:
        rewards: Score of each candidate, higher is better, any finite scale.
        num_best: Candidates to follow; `num_best + num_worst` must not exceed K.
        num_worst: Candidates to avoid; 0 disables the repulsion.
        lambda_best: Total weight of the followed candidates, in [0, 1].

    Returns:
        Weights whose sum over K is `2 * lambda_best - 1`, or `lambda_best` if `num_worst` is 0.
    """
    order = torch.argsort(rewards, dim=0, descending=True, stable=True)
    ranked = torch.zeros_like(rewards)
    ranked[:num_best] = lambda_best / num_best
    if num_worst > 0:
        ranked[-num_worst:] = -(1.0 - lambda_best) / num_worst
    return torch.zeros_like(rewards).scatter(0, order, ranked)


class AbstractStrategy(BaseObject, ABC):
    """A weighting scheme. It keeps no state, so one instance serves every step."""

    needs_rewards: ClassVar[bool] = True
    """Whether the rewards are read; if not, no preview is made and zeros are passed."""

    def configure(self) -> None:
        refuse(self.check(self.cfg))

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings; empty when they are fine."""
        return []

    @staticmethod
    def min_candidates(cfg: Any) -> int:
        """Return how many candidates the settings need at least."""
        return 1

    def num_candidates(self, requested: int) -> int:
        """Return how many candidates to propose when the user asks for `requested`."""
        return requested

    @abstractmethod
    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        """Return the weights of the candidates' gradients; `generators` are for random schemes."""


class StrategyError(UserError):
    """A strategy returned something that cannot weigh candidates."""


def checked_weights(
    strategy: AbstractStrategy, rewards: Float[Tensor, "K G"], generators: Generators
) -> Float[Tensor, "K G"]:
    """Call the strategy and make sure that it returned one finite weight per candidate.

    Raises:
        StrategyError: It did not.
    """
    weights, name = strategy(rewards, generators), type(strategy).__name__
    if not torch.is_tensor(weights) or weights.shape != rewards.shape:
        found = f"shape {list(weights.shape)}" if torch.is_tensor(weights) else repr(weights)[:80]
        raise StrategyError(
            f"{name} returned weights of {found} for rewards of shape {list(rewards.shape)} "
            "(candidates, scenes). A strategy returns a tensor of one weight per reward."
        )
    bad = (~torch.isfinite(weights)).nonzero()
    if len(bad):
        candidate, scene = bad[0].tolist()
        column = ", ".join(f"{reward:.4g}" for reward in rewards[:, scene].tolist())
        raise StrategyError(
            f"The weight of candidate {candidate}, scene {scene} is "
            f"{weights[candidate, scene].item()} ({name}, rewards {column}). Weights must be "
            "finite. Mind rewards that are all equal."
        )
    return weights


@threestudio.register("reward-strategy-none")
class NoStrategy(AbstractStrategy):
    """The plain objective: one candidate of weight 1, no reward. Sum 1."""

    needs_rewards: ClassVar[bool] = False

    def num_candidates(self, requested: int) -> int:
        return 1

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        return torch.ones_like(rewards)


def _count_faults(num_best: int, num_worst: int, lambda_best: float) -> List[str]:
    faults = []
    if num_best < 1:
        faults.append(f"`num_best` is {num_best}, but must be 1 or more.")
    if num_worst < 0:
        faults.append(f"`num_worst` is {num_worst}, but must be 0 or more.")
    if not 0 <= lambda_best <= 1:
        faults.append(f"`lambda_best` is {lambda_best}, but must be in [0, 1], e.g. 0.9.")
    return faults


@threestudio.register("reward-strategy-min-max")
class MinMaxStrategy(AbstractStrategy):
    """Best candidates pull, worst ones push: the paper's default (Table 5), see `min_max_weights`.

    Sum `2 * lambda_best - 1` (0.8 with the defaults), or `lambda_best` without worst ones. The
    official code asserts K >= 4; here the counts may be lowered, so that K = 2 and 3 work.
    """

    @dataclass
    class Config(BaseObject.Config):
        num_best: int = 2
        """Candidates to follow (paper and official code: 2)."""
        num_worst: int = 2
        """Candidates to avoid, 0 for none (paper and official code: 2)."""
        lambda_best: float = 0.9
        """Total weight of the followed ones, in [0, 1]; the avoided ones get the rest, negative."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        return _count_faults(cfg.num_best, cfg.num_worst, cfg.lambda_best)

    @staticmethod
    def min_candidates(cfg: Any) -> int:
        return cfg.num_best + cfg.num_worst

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        return min_max_weights(rewards, self.cfg.num_best, self.cfg.num_worst, self.cfg.lambda_best)


@threestudio.register("reward-strategy-random")
class RandomStrategy(AbstractStrategy):
    """Control: the weights of min-max, given to candidates in random order, without a reward.

    Same settings and same sum as `MinMaxStrategy`; the difference between the two is what the
    reward contributes.
    """

    Config = MinMaxStrategy.Config
    check = staticmethod(MinMaxStrategy.check)
    min_candidates = staticmethod(MinMaxStrategy.min_candidates)
    cfg: Config
    needs_rewards: ClassVar[bool] = False

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        scores = draw(torch.rand, rewards.shape, generators, 1).to(rewards)
        return min_max_weights(scores, self.cfg.num_best, self.cfg.num_worst, self.cfg.lambda_best)


@threestudio.register("reward-strategy-best")
class BestStrategy(AbstractStrategy):
    """Average the best candidates only (Table 5: best one 7.05, two best 7.13). Sum 1.

    Ties keep candidate order.
    """

    @dataclass
    class Config(BaseObject.Config):
        num_best: int = 1
        """Candidates to average (official code: 1)."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        return _count_faults(cfg.num_best, 0, 1.0)

    @staticmethod
    def min_candidates(cfg: Any) -> int:
        return cfg.num_best

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        return min_max_weights(rewards, self.cfg.num_best, 0, 1.0)


@threestudio.register("reward-strategy-softmax")
class SoftmaxStrategy(AbstractStrategy):
    """Weigh all candidates by the softmax of their rewards (Table 5: 7.08). Sum 1.

    `softmax(rewards / temperature)`, finite for rewards of any size.
    """

    @dataclass
    class Config(BaseObject.Config):
        temperature: float = 1.0
        """Rewards are divided by it; above 0. Official code (`weighted`): 1."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        if cfg.temperature > 0:
            return []
        return [f"`temperature` is {cfg.temperature}, but must be above 0, e.g. 1.0."]

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        return torch.softmax(rewards / self.cfg.temperature, dim=0)


@threestudio.register("reward-strategy-mean")
class MeanStrategy(AbstractStrategy):
    """Control: average all candidates without a reward, `1 / K` each. Sum 1."""

    needs_rewards: ClassVar[bool] = False

    def __call__(
        self, rewards: Float[Tensor, "K G"], generators: Generators
    ) -> Float[Tensor, "K G"]:
        return torch.full_like(rewards, 1.0 / rewards.shape[0])
