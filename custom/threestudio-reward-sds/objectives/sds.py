"""Score distillation sampling: the noise residual, and its reconstruction form.

Plain (DreamFusion, arXiv 2209.14988, Eq. 3): `g = w(t) (eps_guided - noise)`.
Reconstruction (MVDream, arXiv 2308.16512, Eq. 5): with the x0 prediction as a fixed target, the
loss `0.5 |z - x0'|^2` has the gradient `g = z - x0'`. Neither differentiates the prior.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, List

from jaxtyping import Bool, Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule

from ..errors import refuse
from ..priors.base import Denoiser
from ..search import Candidates
from .base import AbstractObjective
from .pixels import decoded_x0
from .weightings import weight_of, weighting_faults


def rescale_std(
    x0: Float[Tensor, "K B c h w"],
    x0_cond: Float[Tensor, "K B c h w"],
    num_views: int,
    share: float,
) -> Float[Tensor, "K B c h w"]:
    """Pull the contrast of the guided x0 towards that of the conditional one.

    `share * x0 * std(x0_cond) / std(x0) + (1 - share) * x0`, standard deviations over all views,
    channels and pixels of a scene: strong guidance overexposes (arXiv 2305.08891, section 3.4).
    """
    blocks, blocks_cond = (
        x.unflatten(1, (-1, num_views)).flatten(2) for x in (x0, x0_cond)
    )  # [K G V*c*h*w]
    factor = blocks_cond.std(dim=-1) / (blocks.std(dim=-1) + 1e-8)  # [K G]
    factor = share * factor + (1 - share)
    return x0 * factor.repeat_interleave(num_views, dim=1)[..., None, None, None]


@threestudio.register("sds-objective")
class SDSObjective(AbstractObjective):
    """Score distillation sampling, plain or as reconstruction of the x0 prediction.

    The guidance scale means what it means in published settings: for single-view priors
    `eps_c + s (eps_c - eps_u)`, that is `guided(s + 1)`; for MVDream and Perp-Neg `guided(s)`.
    """

    @dataclass
    class Config(BaseModule.Config):
        guidance_scale: float = 100.0
        """Guidance scale (100 for Stable Diffusion, 20 for DeepFloyd IF, 50 for MVDream)."""
        weighting_strategy: str = "sds"
        """w(t) of the plain form: "sds" (1 - alpha_bar), "uniform" or "fantasia3d"."""
        recon_loss: bool = False
        """Reconstruction form instead of the noise residual (MVDream: true)."""
        recon_std_rescale: float = 0.5
        """Share of the contrast correction in the reconstruction form, in [0, 1]; 0 is off."""
        use_sjc: bool = False
        """Not supported."""
        var_red: bool = True
        """Accepted for baseline configs; unused without `use_sjc`."""
        use_img_loss: bool = False
        """Add `loss_sds_img`: the decoded x0 prediction against the render, in pixels."""

    cfg: Config
    loss_name: ClassVar[str] = "sds"
    follows_prior: ClassVar[bool] = True

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = weighting_faults(cfg)
        if not 0 <= cfg.recon_std_rescale <= 1:
            faults.append(
                f"`recon_std_rescale` is {cfg.recon_std_rescale}, but must be in [0, 1], e.g. 0.5."
            )
        if cfg.use_sjc:
            faults.append("`use_sjc` is not supported. Remove it from `system.guidance`.")
        if cfg.use_img_loss and cfg.recon_loss:
            faults.append(
                "`use_img_loss` belongs to the plain form. Set `system.guidance.recon_loss: false` "
                "or `system.guidance.use_img_loss: false`."
            )
        return faults

    def configure(self) -> None:
        refuse(self.check(self.cfg))

    def residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        form = self._reconstruction if self.cfg.recon_loss else self._noise_residual
        return form(latents, candidates, denoiser, mask)

    def image_residual(
        self,
        images: Float[Tensor, "B 3 H W"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B 3 H W"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, images)
        scale = denoiser.guided_scale(self.cfg.guidance_scale)
        noise_pred = candidates.prediction(denoiser, mask).guided(scale)
        weight = weight_of(self.cfg, alpha, sigma) * alpha / sigma
        return weight * (images - decoded_x0(noise_pred, candidates, denoiser, mask))

    def _noise_residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, latents)
        scale = denoiser.guided_scale(self.cfg.guidance_scale)
        noise_pred = candidates.prediction(denoiser, mask).guided(scale)
        weight = weight_of(self.cfg, alpha, sigma)
        return weight * (noise_pred - candidates.noise)

    def _reconstruction(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, latents)
        scale = denoiser.guided_scale(self.cfg.guidance_scale)
        prediction = candidates.prediction(denoiser, mask)
        x0, x0_cond = (
            (candidates.noisy - sigma * noise_pred) / alpha
            for noise_pred in (prediction.guided(scale), prediction.cond)
        )
        share = self.cfg.recon_std_rescale
        return latents - rescale_std(x0, x0_cond, denoiser.prior.num_views, share)
