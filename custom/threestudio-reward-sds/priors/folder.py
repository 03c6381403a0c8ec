"""Loading of diffusion models from folders in the diffusers layout."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..model_folders import loading, resolve


@dataclass(frozen=True)
class Diffusion:
    """The frozen UNet of a diffusion folder and what its configs say."""

    unet: Any
    alpha_bar: Float[Tensor, " T"]
    """Cumulative products of the noise schedule, float64."""
    prediction_type: str
    """ "epsilon" or "v_prediction"."""
    latent_size: int
    """Height and width of what the UNet denoises."""


@dataclass(frozen=True)
class LatentDiffusion(Diffusion):
    """The same with the VAE that makes the latents."""

    vae: Any
    scale: int
    """Pixels of the image per latent pixel."""


PIXEL_FILES = ("unet/config.json", "scheduler/scheduler_config.json")
DIFFUSION_FILES = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
PATH_KEY = "system.guidance.pretrained_model_name_or_path"
"""Where the YAML names the model, for messages."""


def number_type(device: Any, half: bool) -> torch.dtype:
    """Return the type of the networks: half precision is only honoured on CUDA."""
    return torch.float16 if half and torch.device(device).type == "cuda" else torch.float32


def load_diffusion(path: str, device: Any, half: bool) -> Diffusion:
    """Load UNet and noise schedule from a diffusers folder or hub id, frozen.

    Args:
        path: Folder with `unet/` and `scheduler/`, or a hub id.
        device: Where the UNet goes.
        half: Half precision; only honoured on CUDA, the CPU computes in single precision.
    """
    from diffusers import DDIMScheduler, UNet2DConditionModel

    path, dtype = resolve(path), number_type(device, half)
    with loading(path, "diffusers", PATH_KEY):
        unet = UNet2DConditionModel.from_pretrained(path, subfolder="unet", torch_dtype=dtype)
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The model '{path}' predicts '{scheduler.config.prediction_type}'; supported are "
            "'epsilon' and 'v_prediction'."
        )
    return freeze_unet(unet, scheduler, device)


def load_latent_diffusion(path: str, device: Any, half: bool) -> LatentDiffusion:
    """Load UNet, VAE and noise schedule, as `load_diffusion`; the folder has a `vae/`, too."""
    from diffusers import AutoencoderKL

    model, dtype = load_diffusion(path, device, half), number_type(device, half)
    path = resolve(path)
    with loading(path, "diffusers", PATH_KEY):
        vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=dtype)
    return freeze_vae(model, vae, device)


def freeze_unet(unet: Any, scheduler: Any, device: Any) -> Diffusion:
    """Move the UNet to its device, without gradients."""
    return Diffusion(
        unet=unet.to(device).eval().requires_grad_(False),
        alpha_bar=scheduler.alphas_cumprod.double().to(device),
        prediction_type=scheduler.config.prediction_type,
        latent_size=unet.config.sample_size,
    )


def freeze_vae(model: Diffusion, vae: Any, device: Any) -> LatentDiffusion:
    """Do the same with the VAE, and put both together."""
    return LatentDiffusion(
        **vars(model),
        vae=vae.to(device).eval().requires_grad_(False),
        scale=2 ** (len(vae.config.block_out_channels) - 1),
    )
