"""Use of the trained prior outside a distillation: samples, and previews to train and measure
the reward on."""

import random
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .captions import Caption, blind
from .method import reward_sds
from .renders import NUM_VIEWS
from .text import encode_text

GUIDANCE_SCALE = 7.5
PREVIEW_STEPS = (1, 1, 1, 4)
"""S of a preview is drawn from these."""
TIMESTEP_RANGE = (100, 950)


class CaptionEmbeddings:
    """Stands in for a prompt processor's output: one caption per image.

    Args:
        cond: Embeddings of the captions.
        uncond: Embedding of the empty caption.
    """

    def __init__(self, cond: Float[Tensor, "B S D"], uncond: Float[Tensor, "1 S D"]) -> None:
        self.cond, self.uncond = cond, uncond

    def get_text_embeddings(self, *args: object, **kwargs: object) -> Float[Tensor, "2*B S D"]:
        """Return conditional, then unconditional embeddings (threestudio's order)."""
        return torch.cat([self.cond, self.uncond.expand_as(self.cond)])


class Previewer:
    """The trained multi-view prior with its text encoder.

    Args:
        folder: Diffusers folder of the prior.
        device: Where it computes.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self.priors, self.search = reward_sds("priors"), reward_sds("search")
        config = {"pretrained_model_name_or_path": str(folder), "n_view": NUM_VIEWS}
        self.prior = reward_sds("priors.mvdream").MVDreamPrior(config)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", dtype=torch.float32
        ).to(device)
        self.device = device

    def bind(self, texts: list[str], c2w: Float[Tensor, "B 4 4"]) -> object:
        """Fix one text and one camera per image; returns the extension's denoiser."""
        with torch.no_grad():
            embedded = encode_text(self.tokenizer, self.text_encoder, [*texts, ""])
        nowhere = torch.zeros(len(texts), device=self.device)
        cameras = reward_sds("priors.base").Cameras(nowhere, nowhere, nowhere, c2w.to(self.device))
        return self.prior.bind(
            CaptionEmbeddings(embedded[:-1], embedded[-1:]), cameras, chunk_size=64
        )

    @torch.no_grad()
    def preview(
        self,
        images: Float[Tensor, "G V 3 h w"],
        c2w: Float[Tensor, "G V 4 4"],
        captions: list[Caption],
        generator: torch.Generator,
        rng: random.Random,
        timestep: int | None = None,
        num_steps: int | None = None,
    ) -> Float[Tensor, "G V 3 h w"]:
        """Noise scenes to one timestep and let the prior guess them again, as candidate search
        does.

        Args:
            images: RGB in [0, 1], V views of G scenes.
            c2w: Their cameras.
            captions: True captions; the relation that the prior is told is drawn at random.
            generator: Source of noise.
            rng: Source of every other choice.
            timestep: Drawn from TIMESTEP_RANGE when None.
            num_steps: S; drawn from PREVIEW_STEPS when None.
        """
        groups = images.shape[0]
        told = [str(blind(caption, rng)) for caption in captions]
        denoiser = self.bind([text for text in told for _ in range(NUM_VIEWS)], c2w.flatten(0, 1))
        steps = rng.choice(PREVIEW_STEPS) if num_steps is None else num_steps
        search = self.search.CandidateSearch(steps, "uniform", GUIDANCE_SCALE)
        rgb = images.flatten(0, 1).movedim(1, -1).to(self.device)
        latents = self.prior.encode(rgb, generator)
        t = rng.randrange(*TIMESTEP_RANGE) if timestep is None else timestep
        timesteps = torch.full((groups,), t, device=self.device)
        candidates = search.propose(latents, timesteps, 1, denoiser, generator)
        return search.preview(candidates, denoiser)[0].unflatten(0, (groups, NUM_VIEWS)).cpu()

    @torch.no_grad()
    def sample(
        self,
        captions: list[str],
        c2w: Float[Tensor, "G V 4 4"],
        generator: torch.Generator,
        num_steps: int = 25,
    ) -> Float[Tensor, "G V 3 h w"]:
        """Sample scenes from noise with `num_steps` deterministic DDIM steps."""
        groups = len(captions)
        denoiser = self.bind(
            [text for text in captions for _ in range(NUM_VIEWS)], c2w.flatten(0, 1)
        )
        search = self.search.CandidateSearch(num_steps, "uniform", GUIDANCE_SCALE)
        noise = torch.randn(1, groups * NUM_VIEWS, 4, 8, 8, generator=generator).to(self.device)
        timesteps = torch.full((groups,), 999, device=self.device)
        candidates = self.search.Candidates(noise, noise, timesteps)
        return search.preview(candidates, denoiser)[0].unflatten(0, (groups, NUM_VIEWS)).cpu()
