"""Images that are optimised directly: text to image and editing in 2D."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.data.checks import is_list
from threestudio.registry import find, register
from threestudio.systems.base_system import BaseSystem
from threestudio.systems.guided import GuidedMixin
from threestudio.utils.errors import ConfigError

FRAMES_PER_SECOND = 10


@register("image-system")
class ImageSystem(GuidedMixin, BaseSystem):
    """Text to image: the images of a batch are its scenes, each with its seed and its prompt."""

    @dataclass
    class Config(BaseSystem.Config):
        image_type: str = "latent-parameter"
        image: dict = field(default_factory=dict)
        guidance_type: str = ""
        guidance: dict = field(default_factory=dict)
        prompt_processor_type: str = ""
        prompt_processor: dict = field(default_factory=dict)

    cfg: Config

    @classmethod
    def check(cls, cfg: Any) -> list[str]:
        """List missing parts, weights that look misspelt, and a wrong number of prompts."""
        missing = [
            f"system.{part}_type is not set, the system cannot do without."
            for part in ("image", "guidance", "prompt_processor")
            if not cfg[f"{part}_type"]
        ]
        prompts, seeds = cfg.prompt_processor.get("prompts"), cfg.image.get("seeds", [0])
        both_lists = is_list(prompts) and is_list(seeds)
        if both_lists and prompts and len(prompts) != len(seeds):
            missing.append(
                f"`system.prompt_processor.prompts` has {len(prompts)} prompts, but there are "
                f"{len(seeds)} images, one for each of `system.image.seeds`. Give as many, or one "
                "`prompt` for all images."
            )
        return super().check(cfg) + missing + cls.loss_faults(cfg)

    def configure(self) -> None:
        """Build the guidance, and the images in the size of its prior."""
        self.build_guidance()
        if not hasattr(self.guidance, "latent_shape"):
            raise ConfigError(
                f"The guidance '{self.cfg.guidance_type}' does not say how large its images are, "
                "which the image-system needs. Use one of threestudio-reward-sds."
            )
        self.image = find(self.cfg.image_type)(
            self.cfg.image,
            latent_shape=self.guidance.latent_shape,
            picture_size=self.guidance.picture_size,
            to_latents=self.guidance.to_latents,
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Ask the guidance about all images, and return the weighted sum of its losses.

        A guidance returns the mean over the batch. It is multiplied by the number of images, so
        that what an image learns does not depend on how many there are, with any optimizer.
        """
        images = self.image()
        self._check_finite("An image", images)
        guidance_out = self.guidance(
            images, self.prompt_utils, **batch, rgb_as_latents=self.image.is_latent
        )
        loss = self.guidance_loss(guidance_out) * len(images)
        return self.finish_step(guidance_out, loss, batch_idx)

    @torch.no_grad()
    def pictures(self) -> Float[Tensor, "G H W 3"]:
        """Return all images as RGB in [0, 1]."""
        images = self.image()
        if self.image.is_latent:
            images = self.guidance.to_pictures(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return images.clamp(0, 1)

    def on_fit_start(self) -> None:
        """Save what the images start as, the first frame of the video."""
        if not self.resumed and self._save_dir is not None:
            self._save_grid("it0.png")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save all images as one picture, a frame of the video."""
        self._save_grid(f"it{self.true_global_step}.png")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Save each image, all as one picture, and a video of how they came about."""
        step = self.true_global_step
        self._save_each(f"it{step}-test")
        self._save_grid(f"it{step}.png")
        frames = (".", r"^it(\d+)\.png$")
        self.save_img_sequence(
            f"it{step}-test", *frames, "mp4", FRAMES_PER_SECOND, name="test", step=step
        )

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Export: save each image."""
        self._save_each(f"it{self.true_global_step}-export")

    def _save_each(self, folder: str) -> None:
        """Save `<index>.png` for each image, and `images.json` with their prompts and seeds."""
        pictures = self.pictures()
        for index, picture in enumerate(pictures):
            self.save_rgb_image(f"{folder}/{index}.png", picture)
        block = self.cfg.prompt_processor
        prompts = block.get("prompts") or [block.get("prompt")] * len(pictures)
        seeds = self.image.cfg.seeds
        described = [
            {"file": f"{index}.png", "prompt": prompt, "seed": seed}
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        self.save_json(f"{folder}/images.json", described)

    def _save_grid(self, filename: str) -> None:
        pictures = self.pictures()
        columns = math.ceil(math.sqrt(len(pictures)))
        cells = [{"type": "rgb", "img": picture} for picture in pictures]
        rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
        step = self.true_global_step
        self.save_image_grid(filename, rows, name="validation_step", step=step)
