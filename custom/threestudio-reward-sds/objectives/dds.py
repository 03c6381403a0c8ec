"""Delta denoising score: editing a picture (Hertz et al. 2023, arXiv 2304.07090).

SDS blurs because its gradient is not 0 on a good picture. What it does to the source picture under
the source's own prompt is that error, and is subtracted.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, List, Optional

import torch
from jaxtyping import Bool, Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseModule

from ..errors import UserError, refuse
from ..pictures import picture_faults, picture_paths, read_pictures
from ..priors.base import AbstractPrior, Denoiser
from ..search import Candidates
from . import texts
from .base import AbstractObjective
from .weightings import weight_of, weighting_faults

IMAGE_KEY = "system.guidance.source_image"
CHUNK = 16
"""Source pictures that are encoded at a time."""


@threestudio.register("dds-objective")
class DDSObjective(AbstractObjective):
    """`w(t) (eps(z_t; target) - eps(zs_t; source))` (DDS, Eq. 3): SDS of the image under the target
    prompt minus SDS of the source under its prompt, with the same t and noise, which cancels. Both
    images are encoded without a draw: an image that is the source differs by the prompt alone.

    Both are guided by `eps_u + s (eps_c - eps_u)`. The source is only evaluated for candidates
    whose weight is not 0, and never for previews. The target prompt is the system's. It edits
    pictures of a fixed view; a 3D scene has no source for each of its views.
    """

    @dataclass
    class Config(BaseModule.Config):
        guidance_scale: float = 7.5
        """Classifier-free guidance scale of both branches (DDS: 7.5)."""
        weighting_strategy: str = "uniform"
        """w(t): "uniform" (DDS), "sds" (1 - alpha_bar) or "fantasia3d"."""
        source_image: Any = None
        """Picture that is edited, or a list with one for each image; square, without alpha."""
        source_prompt: Optional[str] = None
        """What the source shows."""
        source_prompts: Optional[List[str]] = None
        """The same for each image, in place of `source_prompt`."""
        prompt_processor_type: str = ""
        """What encodes the source prompts: `${system.prompt_processor_type}`."""
        prompt_processor: dict = field(default_factory=dict)
        """Its settings, and the target prompts: `${system.prompt_processor}`."""

    cfg: Config
    loss_name: ClassVar[str] = "dds"
    draws_latents: ClassVar[bool] = False

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = weighting_faults(cfg)
        if cfg.source_image is None:
            faults.append(
                "`dds-objective` edits a picture, but there is none. Set "
                f"`{IMAGE_KEY}` to a file, and `system.image.picture` to the same to start from it."
            )
        else:
            faults += picture_faults(IMAGE_KEY, cfg.source_image, _count(cfg.source_image))
        return faults + texts.text_faults(cfg) + DDSObjective._prompt_faults(cfg)

    @staticmethod
    def _prompt_faults(cfg: Any) -> List[str]:
        sources, targets = _sources(cfg), texts.targets(cfg)
        if not sources or not all(text.strip() for text in sources):
            return [
                "`dds-objective` needs the prompt of the source. Set "
                "`system.guidance.source_prompt` to what the source picture shows."
            ]
        if len(sources) > 1 and len(targets) != len(sources):
            return [
                f"`system.guidance.source_prompts` has {len(sources)} prompts, but "
                f"`system.prompt_processor.prompts` has {len(targets)}. Give one for each image."
            ]
        targets = targets * len(sources) if len(targets) == 1 else targets
        sources = sources * len(targets) if len(sources) == 1 else sources
        same = [s for s, t in zip(sources, targets, strict=True) if s.strip() == t.strip()]
        return [
            f"Source and target prompt are both '{text}': there is nothing to edit. "
            "`system.guidance.source_prompt` says what the picture shows, "
            "`system.prompt_processor.prompt` what it shall show."
            for text in dict.fromkeys(same)
        ]

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        self._source_prompts = texts.encode(self.cfg, _sources(self.cfg))

    @torch.no_grad()
    def attach(self, prior: AbstractPrior) -> None:
        count = _count(self.cfg.source_image)
        pictures = read_pictures(IMAGE_KEY, self.cfg.source_image, count, prior.picture_size)
        images = pictures.permute(0, 2, 3, 1).to(prior.alpha_bar.device)
        self._source = torch.cat([prior.encode(part, None) for part in images.split(CHUNK)])

    def residual(
        self,
        latents: Float[Tensor, "B c h w"],
        candidates: Candidates,
        denoiser: Denoiser,
        mask: Bool[Tensor, "K B"],
    ) -> Float[Tensor, "K B c h w"]:
        alpha, sigma = denoiser.alpha_sigma(candidates.timesteps, latents)
        target = candidates.prediction(denoiser, mask)
        noisy_source = alpha * self._source_like(latents) + sigma * candidates.noise
        given_source = denoiser.given(self._source_prompts)
        source = given_source(noisy_source, candidates.timesteps, mask)
        scale = self.cfg.guidance_scale
        weight = weight_of(self.cfg, alpha, sigma)
        return weight * (target.guided(scale) - source.guided(scale))

    def _source_like(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        source = self._source.to(latents)
        if len(source) not in (1, len(latents)) or source.shape[1:] != latents.shape[1:]:
            raise UserError(
                f"`{IMAGE_KEY}` makes latents {list(source.shape)}, but those of the images are "
                f"{list(latents.shape)}. Give one picture for all images, or one for each."
            )
        return source.expand_as(latents)


def _count(source_image: Any) -> int:
    return len(picture_paths(source_image))


def _sources(cfg: Any) -> List[str]:
    if cfg.source_prompts:
        return list(cfg.source_prompts)
    return [cfg.source_prompt] if cfg.source_prompt else []
