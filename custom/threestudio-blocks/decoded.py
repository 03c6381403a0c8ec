"""Pictures as the autoencoder gives them back: what every result in 2D went through."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm


@torch.no_grad()
def through_autoencoder(
    pictures: Float[Tensor, "N 3 64 64"], folder: Path, device: str, chunk: int = 64
) -> Float[Tensor, "N 3 64 64"]:
    """Encode and decode pictures in [0, 1].

    Args:
        pictures: RGB.
        folder: The trained autoencoder.
        device: Where it runs.
        chunk: Pictures at a time.
    """
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).to(device)
    decoded = []
    for part in tqdm(pictures.split(chunk), desc="autoencoder", mininterval=5):
        latents = vae.encode(part.to(device) * 2 - 1).latent_dist.mean
        decoded.append(vae.decode(latents).sample.cpu() / 2 + 0.5)
    return torch.cat(decoded).clamp(0, 1)
