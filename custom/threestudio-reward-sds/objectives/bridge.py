"""SDS as a Schroedinger bridge (McAllister et al. 2024, arXiv 2406.09417).

SDS moves renders from where they are to the prompt, but says nothing of where they are. After a
first stage of SDS they are oversaturated and smooth; the second stage says so in words and moves
from there to the same prompt in good quality.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, List

from jaxtyping import Bool, Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule

from ..errors import refuse
from ..priors.base import Denoiser
from ..search import Candidates
from . import texts
from .base import AbstractObjective
from .weightings import weight_of, weighting_faults


@threestudio.register("bridge-objective")
class BridgeObjective(AbstractObjective):
    """First `w(t) (eps_u + s (eps_c - eps_u) - noise)`, SDS; from `bridge_start` on
    `w(t) s (eps(z_t; target) - eps(z_t; source))`, source and target being the prompt and a suffix.

    In the second stage previews are denoised by `eps_source + s' (eps_target - eps_source)`: the
    same two predictions, so a preview of one step costs nothing, as in the first.
    """

    @dataclass
    class Config(BaseModule.Config):
        guidance_scale: float = 40.0
        """s of the first stage (paper: 40)."""
        guidance_scale_bridge: float = 40.0
        """s of the second stage (official 2D code: that of the first)."""
        bridge_start: int = 500
        """Step at which the second stage begins (official 2D code: half of the training)."""
        bridge_target_suffix: str = ", detailed high resolution, high quality, sharp"
        """Added to the prompt for the target of the second stage."""
        bridge_source_suffix: str = (
            ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, "
            "noisy, malformed"
        )
        """Added to the prompt for its source: what the first stage leaves behind."""
        weighting_strategy: str = "sds"
        """w(t) of both stages: "sds" (1 - alpha_bar), "uniform" or "fantasia3d"."""
        prompt_processor_type: str = ""
        """What encodes source and target: `${system.prompt_processor_type}`."""
        prompt_processor: dict = field(default_factory=dict)
        """Its settings, and the prompts: `${system.prompt_processor}`."""

    cfg: Config
    loss_name: ClassVar[str] = "bridge"

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = weighting_faults(cfg)
        if cfg.bridge_start < 0:
            faults.append(
                f"`system.guidance.bridge_start` is {cfg.bridge_start}, but must be a step, 0 or "
                "more."
            )
        if cfg.bridge_source_suffix == cfg.bridge_target_suffix:
            faults.append(
                "`system.guidance.bridge_source_suffix` and `bridge_target_suffix` are both "
                f"'{cfg.bridge_source_suffix}': the second stage would have nowhere to go."
            )
        return faults + texts.text_faults(cfg)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        cfg, prompts = self.cfg, texts.targets(self.cfg)
        target, source = (
            texts.encode(cfg, [prompt + suffix for prompt in prompts])
            for suffix in (cfg.bridge_target_suffix, cfg.bridge_source_suffix)
        )
        self._ends = texts.PromptPair(target, source)
        self.step = 0

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Set which stage it is."""
        self.step = global_step

    @property
    def bridges(self) -> bool:
        """Whether it is the second stage."""
        return self.step >= self.cfg.bridge_start

    def conditioned(self, denoiser: Denoiser) -> Denoiser:
        return denoiser.given(self._ends) if self.bridges else denoiser

    def residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, latents)
        weight = weight_of(self.cfg, alpha, sigma)
        prediction = candidates.prediction(denoiser, mask)
        if self.bridges:
            scale = self.cfg.guidance_scale_bridge
            return weight * scale * (prediction.cond - prediction.uncond)
        return weight * (prediction.guided(self.cfg.guidance_scale) - candidates.noise)
