"""Loading of diffusion models from folders in the diffusers layout."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..model_folders import loading, resolve
from ..networks import load_network


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
BLOCK = "system.guidance"
PATH_KEY = f"{BLOCK}.pretrained_model_name_or_path"
"""Where the YAML has a prior's settings, and names its model, for messages."""


def load_diffusion(path: str, device: Any, dtype: torch.dtype) -> Diffusion:
    """Load UNet and noise schedule from a diffusers folder or hub id, frozen.

    Args:
        path: Folder with `unet/` and `scheduler/`, or a hub id.
        device: Where the UNet goes.
        dtype: Its number type.

    Raises:
        UserError: The folder cannot be loaded, or its weights are not all of the UNet's.
    """
    from diffusers import DDIMScheduler, UNet2DConditionModel

    path = resolve(path)
    with loading(path, "diffusers", PATH_KEY):
        unet = load_network(
            UNet2DConditionModel, path, PATH_KEY, subfolder="unet", torch_dtype=dtype
        )
        scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The model '{path}' predicts '{scheduler.config.prediction_type}'; supported are "
            "'epsilon' and 'v_prediction'."
        )
    return freeze_unet(unet, scheduler, device)


def load_latent_diffusion(path: str, device: Any, dtype: torch.dtype) -> LatentDiffusion:
    """Load UNet, VAE and noise schedule, as `load_diffusion`; the folder has a `vae/`, too."""
    from diffusers import AutoencoderKL

    model, path = load_diffusion(path, device, dtype), resolve(path)
    with loading(path, "diffusers", PATH_KEY):
        vae = load_network(AutoencoderKL, path, PATH_KEY, subfolder="vae", torch_dtype=dtype)
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
