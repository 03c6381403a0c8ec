"""The objective's interface: one unreduced gradient per candidate, without knowing its reward."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Dict, List

from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.utils.base import BaseModule

from ..priors.base import Denoiser
from ..search import Candidates


class AbstractObjective(BaseModule, ABC):
    """What is distilled from the prior; trainable parts of an objective are its parameters."""

    loss_name: ClassVar[str]
    """The guidance returns the surrogate as `loss_<loss_name>`."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings; empty when they are fine."""
        return []

    @abstractmethod
    def gradient(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K G"],
    ) -> Float[Tensor, "K B c h w"]:
        """Return d(loss of each candidate) / d(latents), summed over elements, not averaged.

        Args:
            latents: Encoded renders, without gradient.
            candidates: The noises and their timesteps.
            denoiser: The prior with prompt and cameras fixed.
            mask: Candidates of non-zero weight. The others are not evaluated and return 0.
        """

    def auxiliary_losses(
        self, latents: Float[Tensor, "B c h w"], denoiser: Denoiser
    ) -> Dict[str, Float[Tensor, ""]]:
        """Return losses of the objective's own trainable parts as `loss_...`; none by default."""
        return {}
