"""Loading of latent diffusion models from folders in the diffusers layout."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..model_folders import loading, resolve


@dataclass(frozen=True)
class LatentDiffusion:
    """The frozen networks of a latent diffusion model and what their configs say."""

    unet: Any
    vae: Any
    alpha_bar: Float[Tensor, " T"]
    """Cumulative products of the noise schedule, float64."""
    prediction_type: str
    """ "epsilon" or "v_prediction"."""
    latent_size: int
    """Height and width of a latent."""
    scale: int
    """Pixels of the image per latent pixel."""


DIFFUSION_FILES = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def load_latent_diffusion(path: str, device: Any, half: bool) -> LatentDiffusion:
    """Load UNet, VAE and noise schedule from a diffusers folder or hub id, frozen.

    Args:
        path: Folder with `unet/`, `vae/` and `scheduler/`, or a hub id.
        device: Where the networks go.
        half: Half precision; only honoured on CUDA, the CPU computes in single precision.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    path, dtype = resolve(path), number_type(device, half)
    with loading(path, "diffusers", "system.guidance.pretrained_model_name_or_path"):
        unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype)
        vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=dtype)
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The model '{path}' predicts '{scheduler.config.prediction_type}'; supported are "
            "'epsilon' and 'v_prediction'."
        )
    return freeze(unet, vae, scheduler, device)


def number_type(device: Any, half: bool) -> torch.dtype:
    """Return the type that networks on `device` compute in: half precision only on CUDA."""
    return torch.float16 if half and torch.device(device).type == "cuda" else torch.float32


def freeze(unet: Any, vae: Any, scheduler: Any, device: Any) -> LatentDiffusion:
    """Move the networks to their device, without gradients."""
    return LatentDiffusion(
        unet=unet.to(device).eval().requires_grad_(False),
        vae=vae.to(device).eval().requires_grad_(False),
        alpha_bar=scheduler.alphas_cumprod.double().to(device),
        prediction_type=scheduler.config.prediction_type,
        latent_size=unet.config.sample_size,
        scale=2 ** (len(vae.config.block_out_channels) - 1),
    )
