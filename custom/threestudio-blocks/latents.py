"""Latents of the rendered scenes with blind captions: what the prior is trained on."""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from .batches import caption_of, colored_batch, draw_colors, view_of
from .captions import Caption, blind, with_view
from .renders import NUM_VIEWS, Renders
from .training import digest, mixed_precision, python_rng, save_atomically

VARIANTS = 4
"""Colourings of every scene that are kept."""
TEXT_DROPOUT = 0.12
"""Share of scenes trained without text, for classifier-free guidance."""


@dataclass(frozen=True)
class LatentBatch:
    """Images of one training step; those of a scene are neighbours."""

    latents: Float[Tensor, "B 4 8 8"]
    texts: list[str]
    """One per image, empty where the text is dropped."""
    c2w: Float[Tensor, "B 4 4"] | None
    """Cameras of several views per scene; None for single views."""
    num_views: int
    """Images per scene."""


class LatentPool:
    """Latents of every rendered scene in several colourings, encoded once and kept in the cache.

    Args:
        renders: Rendered scenes.
        folder: The trained autoencoder.
        options: Command line of the training (seed, device, cache).
    """

    def __init__(self, renders: Renders, folder: Path, options: argparse.Namespace) -> None:
        self.renders = renders
        name = f"latents-{len(renders)}-seed{options.seed}-{digest(folder)}.pt"
        path = Path(options.cache) / name
        if not path.exists():
            vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
            vae = vae.to(options.device).eval().requires_grad_(False)
            save_atomically(self._encode(vae, options), path)
        state = torch.load(path, weights_only=True)
        self.latents, self.colors = state["latents"], state["colors"]

    @torch.no_grad()
    def _encode(
        self, vae: AutoencoderKL, options: argparse.Namespace, chunk: int = 50
    ) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(options.seed)
        latents, colors = [], []
        starts = [s for _ in range(VARIANTS) for s in range(0, len(self.renders), chunk)]
        for start in tqdm(starts, desc="encoding renders", mininterval=5):
            index = torch.arange(start, min(start + chunk, len(self.renders)))
            chosen = draw_colors(self.renders, index, generator)
            images = colored_batch(self.renders, index, generator, colors=chosen).images
            with mixed_precision(options.device):
                mean = vae.encode(images.flatten(0, 1).to(options.device) * 2 - 1).latent_dist.mean
            scaled = (mean.float() * vae.config.scaling_factor).half().cpu()
            latents.append(scaled.unflatten(0, (-1, NUM_VIEWS)))
            colors.append(chosen)
        return {"latents": torch.cat(latents), "colors": torch.cat(colors)}

    def draw_scenes(self, num_scenes: int, generator: torch.Generator) -> LatentBatch:
        """Draw scenes with all their views and cameras; views share a caption without suffix."""
        latents, captions, index, rng = self._draw(num_scenes, generator)
        texts = ["" if rng.random() < TEXT_DROPOUT else str(caption) for caption in captions]
        texts = [text for text in texts for _ in range(NUM_VIEWS)]
        c2w = self.renders.c2w[index].flatten(0, 1)
        return LatentBatch(latents.flatten(0, 1), texts, c2w, NUM_VIEWS)

    def draw_views(self, num_images: int, generator: torch.Generator) -> LatentBatch:
        """Draw single views of different scenes, without camera and with the view suffix."""
        latents, captions, index, rng = self._draw(num_images, generator)
        view = torch.randint(NUM_VIEWS, (num_images,), generator=generator)
        azimuths = self.renders.azimuth_deg[index, view].tolist()
        texts = [
            "" if rng.random() < TEXT_DROPOUT else with_view(caption, view_of(azimuth))
            for caption, azimuth in zip(captions, azimuths, strict=True)
        ]
        return LatentBatch(latents[torch.arange(num_images), view], texts, None, 1)

    def _draw(
        self, num: int, generator: torch.Generator
    ) -> tuple[Tensor, list[Caption], Int[Tensor, " N"], random.Random]:
        rng = python_rng(generator)
        chosen = torch.randint(len(self.latents), (num,), generator=generator)
        index = chosen % len(self.renders)
        captions = [
            blind(caption_of(self.renders.scenes, i, self.colors[c]), rng)
            for i, c in zip(index.tolist(), chosen, strict=True)
        ]
        return self.latents[chosen].float(), captions, index, rng
