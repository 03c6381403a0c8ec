"""What all latent diffusion priors share: a UNet in the latent space of a VAE.

Renders are resized to the model's image size, latents carry the VAE's scaling factor.
"""

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any, ClassVar, Dict, Optional

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import UserError
from ..streams import Generators, draw
from .adapter import LoRAAdapter
from .base import Cameras, Conditioning
from .folder import LatentDiffusion
from .text import plain_text
from .unet import AbstractUNetPrior, at_least_single, no_autocast, resize


def check_scenes(batch: int, num_views: int) -> None:
    """Raise unless the batch consists of whole scenes."""
    if batch % num_views:
        raise ValueError(
            f"The batch has {batch} images, but the prior denoises {num_views} views of a scene "
            "jointly. Use a data module that draws whole scenes, `data_type: "
            '"mvdream-random-multiview-camera-datamodule"`, with its `n_view` equal to '
            "`system.guidance.n_view` and its `batch_size` a multiple of that."
        )


class AbstractLatentPrior(AbstractUNetPrior):
    """A UNet2DConditionModel in the latent space of an AutoencoderKL; conditioning is left open."""

    adapter: Optional[LoRAAdapter] = None
    rgb_is_unit: ClassVar[bool] = False
    """Whether renders that stand for latents come in [0, 1] and are mapped to [-1, 1]."""

    def install(self, model: LatentDiffusion, num_views: int, image_size: Optional[int]) -> None:
        """Take over the networks of a folder; called once from `configure`."""
        self.install_unet(model, num_views)
        self.vae = model.vae
        self.image_size = image_size or model.latent_size * model.scale
        self.latent_size = self.image_size // model.scale

    @property
    def picture_size(self) -> int:
        """Width and height of the pictures that are encoded."""
        return self.image_size

    def pixels(self, rgb: Float[Tensor, "B H W C"]) -> Float[Tensor, "B 3 S S"]:
        if rgb.shape[-1] != 3:
            raise UserError(
                f"`use_img_loss` compares pictures, but the renders have {rgb.shape[-1]} channels. "
                "Set `system.guidance.use_img_loss: false`."
            )
        return resize(at_least_single(rgb).permute(0, 3, 1, 2), self.image_size)

    def encode(
        self,
        rgb: Float[Tensor, "B H W C"],
        generators: Optional[Generators],
        as_latents: bool = False,
    ) -> Float[Tensor, "B c h w"]:
        """Encode renders in [0, 1]: a draw of the VAE's posterior (`encode_sample`) or its mean."""
        check_scenes(rgb.shape[0], self.num_views)
        if as_latents:
            latents = resize(at_least_single(rgb).permute(0, 3, 1, 2), self.latent_size)
            return latents * 2 - 1 if self.rgb_is_unit else latents
        with no_autocast(rgb):
            images = self.pixels(rgb)
            inputs = images * 2 - 1
            posterior = self.vae.encode(inputs.to(self.vae.dtype)).latent_dist
            latents = posterior.mean
            if self.cfg.encode_sample and generators is not None:
                drawn = draw(torch.randn, latents.shape, generators, 0).to(latents)
                latents = latents + posterior.std * drawn
            return latents.to(images.dtype) * self.vae.config.scaling_factor

    def decode(self, latents: Float[Tensor, "N c h w"]) -> Float[Tensor, "N 3 H W"]:
        with no_autocast(latents):
            scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
            images = self.vae.decode(scaled).sample
            return (images.to(latents.dtype) * 0.5 + 0.5).clamp(0, 1)

    def network(
        self,
        noisy: Float[Tensor, "N c h w"],
        timesteps: Int[Tensor, " N"],
        conditioning: Dict[str, Tensor],
    ) -> Float[Tensor, "N c h w"]:
        with nullcontext() if self.adapter is None else self.adapter.off():
            return super().network(noisy, timesteps, conditioning)

    def adapt(self, rank: int) -> nn.Module:
        self.adapter = LoRAAdapter(self.unet, rank)
        return self.adapter

    def adapted_conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        """Return the prompt without view, and cameras or zeros in their place."""
        text = plain_text(prompt_utils, cameras)
        numbers = self.camera_numbers(cameras)
        return Conditioning(
            {
                "encoder_hidden_states": text.repeat(2, 1, 1),
                "class_labels": torch.cat([numbers, torch.zeros_like(numbers)]),
            }
        )

    @abstractmethod
    def camera_numbers(self, cameras: Cameras) -> Float[Tensor, "B 16"]:
        """Return the numbers that tell the adapted network where the images were taken from."""

    def adapted_network(
        self,
        noisy: Float[Tensor, "N c h w"],
        timesteps: Int[Tensor, " N"],
        conditioning: Dict[str, Tensor],
    ) -> Float[Tensor, "N c h w"]:
        with self.adapter.sees_cameras():
            return super().network(noisy, timesteps, conditioning)
