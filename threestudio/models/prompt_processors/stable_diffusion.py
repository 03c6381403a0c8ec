"""`stable-diffusion-prompt-processor`: the CLIP text encoder of a Stable Diffusion folder."""

import os
from dataclasses import dataclass
from typing import Any, Optional

import torch
from jaxtyping import Float
from torch import Tensor

from threestudio.models.prompt_processors.base import (
    CACHE_DIR,
    PromptProcessor,
    hash_prompt,
    model_path,
    store_embedding,
)
from threestudio.models.prompt_processors.source import load_failure, resolve
from threestudio.models.prompt_processors.tokens import warn_if_cut
from threestudio.registry import register
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device


def load_text_encoder(path: str, revision: Optional[str] = None) -> tuple[Any, Any]:
    """Load tokenizer and text encoder from a folder or the hub.

    Raises:
        UserError: With what to run, if they are not there.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    extra = {} if revision is None else {"revision": revision}
    try:
        tokenizer = CLIPTokenizer.from_pretrained(resolve(path), subfolder="tokenizer", **extra)
        encoder = CLIPTextModel.from_pretrained(resolve(path), subfolder="text_encoder", **extra)
    except (OSError, ValueError) as error:
        raise UserError(load_failure(path, error)) from error
    return tokenizer, encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_prompts(tokenizer: Any, encoder: Any, prompts: list[str]) -> Float[Tensor, "N S D"]:
    """Return the last hidden states of prompts, cut to the encoder's length with a warning.

    One prompt per call: the last bits of a batched result depend on the other prompts, and a stored
    embedding must not depend on what else was missing when it was computed.
    """
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    warn_if_cut(tokenizer, prompts, length)
    tokens = tokenizer(
        prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    rows = tokens.input_ids.to(encoder.device).split(1)
    return torch.cat([encoder(row)[0] for row in rows]).float()


@register("stable-diffusion-prompt-processor")
class StableDiffusionPromptProcessor(PromptProcessor):
    """Embed prompts with `<path>/text_encoder` and `<path>/tokenizer`; the last hidden states [S
    D]."""

    @dataclass
    class Config(PromptProcessor.Config):
        pass

    cfg: Config

    def encode_missing(self, prompts: list[str]) -> None:
        """Compute and store embeddings."""
        self.spawn_func(model_path(self.cfg), prompts, CACHE_DIR, self.cfg.revision)

    @staticmethod
    def spawn_func(
        pretrained_model_name_or_path: str,
        prompts: list[str],
        cache_dir: str,
        revision: Optional[str] = None,
    ) -> None:
        """Embed prompts and store each under its hash; the encoder is freed on return."""
        tokenizer, encoder = load_text_encoder(pretrained_model_name_or_path, revision)
        embeddings = encode_prompts(tokenizer, encoder.to(get_device()), prompts)
        for prompt, embedding in zip(prompts, embeddings, strict=True):
            name = hash_prompt(pretrained_model_name_or_path, prompt, revision)
            store_embedding(embedding, os.path.join(cache_dir, f"{name}.pt"))
