"""Variational score distillation (ProlificDreamer, arXiv 2305.16213).

What is distilled is the difference between the pretrained noise prediction and that of an adapter
(LoRA) of the same network, which is trained on the renders all along.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule

from ..errors import refuse
from ..priors.attention import without_cudnn_attention
from ..priors.base import AbstractPrior, Denoiser
from ..schedules import draw_timesteps
from ..search import Candidates
from ..streams import Generators, draw
from .base import AbstractObjective
from .pixels import decoded_x0

CAMERA, NO_CAMERA = 0, 1
"""The two "texts" of the adapted network."""
CAMERA_DROP_PROBABILITY = 0.1


@threestudio.register("vsd-objective")
class VSDObjective(AbstractObjective):
    """`w(t) (eps_prior(z_t, y, t) - eps_lora(z_t, y, c, t))` with `w = 1 - alpha_bar` (RewardVSD,
    Eq. 5), and the denoising loss of the adapter.

    Prior: `eps_u + s (eps_c - eps_u)`, whatever the prior's SDS scales mean. Adapter: the prompt
    without its view and the camera c, `eps_0 + s_lora (eps_c - eps_0)`; with `s_lora = 1` the
    prediction without a camera is not evaluated.
    """

    @dataclass
    class Config(BaseModule.Config):
        guidance_scale: float = 7.5
        """Classifier-free guidance scale of the prior."""
        guidance_scale_lora: float = 1.0
        """The same for the adapter, between no camera and the camera."""
        lora_rank: int = 4
        """Rank of the adapter's terms."""
        lora_cfg_training: bool = True
        """Train the adapter without camera in a tenth of the steps."""
        lora_n_timestamp_samples: int = 1
        """Timesteps per image and step at which the adapter is trained."""
        use_img_loss: bool = False
        """Add `loss_vsd_img`: the decoded x0 predictions of adapter and prior, in pixels."""
        pretrained_model_name_or_path_lora: Optional[str] = None
        """Accepted for baseline configs; the adapter is always one of the prior itself."""

    cfg: Config
    loss_name: ClassVar[str] = "vsd"

    @staticmethod
    def check(cfg: Any) -> List[str]:
        return [
            f"`system.guidance.{key}` is {cfg[key]}, but must be 1 or more{hint}."
            for key, hint in (("lora_rank", ", e.g. 4"), ("lora_n_timestamp_samples", ""))
            if cfg[key] < 1
        ]

    def configure(self) -> None:
        refuse(self.check(self.cfg))

    def attach(self, prior: AbstractPrior) -> None:
        self.adapter = prior.adapt(self.cfg.lora_rank)

    def residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        _, sigma = denoiser.alpha_sigma(candidates.timesteps, latents)
        prior, lora = self._predictions(candidates, denoiser, mask)
        return sigma**2 * (prior - lora)

    def image_residual(
        self,
        images: Float[Tensor, "B 3 H W"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B 3 H W"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, images)
        prior, lora = (
            decoded_x0(noise_pred, candidates, denoiser, mask)
            for noise_pred in self._predictions(candidates, denoiser, mask)
        )
        return sigma * alpha * (lora - prior)  # w(t) alpha / sigma

    def _predictions(
        self, candidates: Candidates, denoiser: Denoiser, mask: Bool[Tensor, "K B"]
    ) -> Tuple[Float[Tensor, "K B c h w"], Float[Tensor, "K B c h w"]]:
        prior = candidates.prediction(denoiser, mask).guided(self.cfg.guidance_scale)
        known, lora = candidates.kept.get("adapter", (None, None))
        if known is None or not torch.equal(known, mask):
            lora = self._lora_prediction(candidates, denoiser.adapted, mask)
            candidates.kept["adapter"] = mask, lora
        return prior, lora

    def _lora_prediction(
        self, candidates: Candidates, adapted: Denoiser, mask: Bool[Tensor, "K B"]
    ) -> Float[Tensor, "K B c h w"]:
        at = (candidates.noisy, candidates.timesteps, mask)
        if self.cfg.guidance_scale_lora == 1.0:
            return adapted.noise(*at, texts=[CAMERA])[0]
        return adapted(*at).guided(self.cfg.guidance_scale_lora)

    def auxiliary_losses(
        self,
        latents: Float[Tensor, "B c h w"],
        denoiser: Denoiser,
        generators: Generators,
    ) -> Dict[str, Float[Tensor, ""]]:
        """Return `loss_lora`: the denoising loss of the adapter on the renders."""
        count = 1 if isinstance(generators, torch.Generator) else len(generators)
        drop = draw(torch.rand, (count,), generators, 0) < CAMERA_DROP_PROBABILITY
        texts = torch.where(drop & self.cfg.lora_cfg_training, NO_CAMERA, CAMERA)
        texts = texts.repeat_interleave(len(latents) // count).to(latents.device)
        losses = [
            self._denoising_loss(latents, denoiser.adapted, texts, generators)
            for _ in range(self.cfg.lora_n_timestamp_samples)
        ]
        return {"loss_lora": torch.stack(losses).mean()}

    @staticmethod
    def _denoising_loss(
        latents: Float[Tensor, "B c h w"],
        adapted: Denoiser,
        texts: Int[Tensor, " B"],
        generators: Generators,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the network's own output at one timestep per scene, any of T."""
        prior = adapted.prior
        num_scenes, last = len(latents) // prior.num_views, prior.num_train_timesteps - 1
        timesteps = draw_timesteps(num_scenes, 0, last, generators).to(latents.device)
        noise = draw(torch.randn, latents.shape, generators, 0).to(latents)
        alpha, sigma = adapted.alpha_sigma(timesteps, latents)
        with without_cudnn_attention():
            output = adapted.output(alpha * latents + sigma * noise, timesteps, texts)
        return F.mse_loss(output, prior.target(latents, noise, alpha, sigma))
