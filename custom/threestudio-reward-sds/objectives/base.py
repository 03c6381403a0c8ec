"""The objective's interface: one unreduced gradient per candidate, without knowing its reward."""

from abc import ABC, abstractmethod
from typing import Any, Callable, ClassVar, Dict, List

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threestudio.utils.base import BaseModule

from ..errors import UserError
from ..priors.base import AbstractPrior, Denoiser
from ..search import Candidates
from ..streams import Generators


class AbstractObjective(BaseModule, ABC):
    """What is distilled from the prior; trainable parts of an objective are its parameters."""

    loss_name: ClassVar[str]
    """The guidance returns the surrogate as `loss_<loss_name>`."""
    follows_prior: ClassVar[bool] = False
    """Whether the prior's `flat_defaults` are the defaults of this objective's keys."""
    draws_latents: ClassVar[bool] = True
    """Whether renders are encoded by a draw of the prior's posterior, or by its mean."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings; empty when they are fine."""
        return []

    @property
    def has_image_loss(self) -> bool:
        """Whether `image_gradient` is asked for, too."""
        return bool(getattr(self.cfg, "use_img_loss", False))

    def conditioned(self, denoiser: Denoiser) -> Denoiser:
        """Return what candidates are previewed and distilled with: `denoiser`, or it with other
        prompts."""
        return denoiser

    def attach(self, prior: AbstractPrior) -> None:
        """Add to the prior what the objective trains, and register it; called once."""

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
        return _only(self.residual, latents, candidates, denoiser, mask)

    def image_gradient(
        self,
        images: Float[Tensor, "B 3 H W"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K G"],
    ) -> Float[Tensor, "K B 3 H W"]:
        """Return the same of the image loss, asked for if the objective `has_image_loss`.

        Args:
            images: Renders in [0, 1] at the size that the prior decodes to, without gradient.
            candidates: As for `gradient`, after it.
            denoiser: As for `gradient`.
            mask: As for `gradient`.
        """
        return _only(self.image_residual, images, candidates, denoiser, mask)

    @abstractmethod
    def residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        """Return the gradient of each candidate; where `mask` is false it may be anything."""

    def image_residual(
        self,
        images: Float[Tensor, "B 3 H W"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B 3 H W"]:
        """Return the same of the image loss."""
        raise UserError(
            f"`{type(self).__name__}` has no image loss. Set `system.guidance.use_img_loss: false`."
        )

    def auxiliary_losses(
        self,
        latents: Float[Tensor, "B c h w"],
        denoiser: Denoiser,
        generators: Generators,
    ) -> Dict[str, Float[Tensor, ""]]:
        """Return losses of the objective's own trainable parts as `loss_...`; none by default."""
        return {}


def _only(
    residual: Callable[..., Tensor],
    renders: Float[Tensor, "B c h w"],
    candidates: Candidates,
    denoiser: Denoiser,
    mask: Bool[Tensor, "K G"],
) -> Float[Tensor, "K B c h w"]:
    """Evaluate a residual for the candidates of `mask`, and return 0 for the others."""
    image_mask = mask.repeat_interleave(denoiser.prior.num_views, dim=1)  # [K B]
    with torch.no_grad():
        found = residual(renders, candidates, denoiser, image_mask)
    return torch.where(image_mask[..., None, None, None], found, torch.zeros_like(found))
