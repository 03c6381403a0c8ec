"""`deep-floyd-prompt-processor`: the T5 text encoder of a DeepFloyd IF folder."""

import os
from dataclasses import dataclass
from importlib.util import find_spec
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
    text_faults,
)
from threestudio.models.prompt_processors.source import folder_faults, load_failure, resolve
from threestudio.models.prompt_processors.tokens import warn_if_cut
from threestudio.registry import register
from threestudio.utils.errors import UserError
from threestudio.utils.misc import get_device

MODEL = "DeepFloyd/IF-I-XL-v1.0"
HINT = (
    "accept the licence on the model's page and run `hf auth login` before; `--include "
    '"text_encoder/*" --include "tokenizer/*"` leaves the rest out'
)
MAX_LENGTH = 77
"""Tokens that IF was trained with; T5 itself has no limit."""


def load_t5(
    path: str, revision: Optional[str] = None, half_precision: bool = True
) -> tuple[Any, Any]:
    """Load tokenizer and T5 encoder from a folder or the hub.

    Raises:
        UserError: With what to run, if they are not there.
    """
    from transformers import T5EncoderModel, T5Tokenizer

    extra = {} if revision is None else {"revision": revision}
    dtype = torch.bfloat16 if half_precision else torch.float32
    try:
        tokenizer = T5Tokenizer.from_pretrained(resolve(path), subfolder="tokenizer", **extra)
        encoder = T5EncoderModel.from_pretrained(
            resolve(path), subfolder="text_encoder", dtype=dtype, **extra
        )
    except (OSError, ValueError, ImportError) as error:
        message = load_failure(path, error, HINT)
        if find_spec("sentencepiece") is None:
            message += (
                " A tokenizer that is stored as `spiece.model` also needs `pip install "
                "sentencepiece protobuf`."
            )
        raise UserError(message) from error
    return tokenizer, encoder.eval().requires_grad_(False)


@torch.no_grad()
def encode_prompts(
    tokenizer: Any, encoder: Any, prompts: list[str], max_length: int = MAX_LENGTH
) -> Float[Tensor, "N S D"]:
    """Return the last hidden states of prompts, padded or cut to `max_length` tokens.

    The encoder's attention skips the padding. One prompt per call, so that an embedding does not
    depend on what else was missing when it was computed.
    """
    warn_if_cut(tokenizer, prompts, max_length)
    states = []
    for prompt in prompts:
        tokens = tokenizer(
            prompt,
            padding="max_length",
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        ).to(encoder.device)
        states.append(encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0])
    return torch.cat(states).float()


@register("deep-floyd-prompt-processor")
class DeepFloydPromptProcessor(PromptProcessor):
    """Embed prompts with the T5 encoder `<path>/text_encoder` and `<path>/tokenizer`; the last
    hidden states [77 D].

    Prompts are encoded as they are written. The IF pipeline of diffusers lower-cases and trims them
    before, and T5 tells cases apart: to get that pipeline's embeddings, write prompts in lower
    case."""

    @dataclass
    class Config(PromptProcessor.Config):
        pretrained_model_name_or_path: str = MODEL
        """Folder with a T5 in `text_encoder` and `tokenizer`, or hub id."""
        max_length: int = MAX_LENGTH
        """Tokens per prompt; IF was trained with 77."""
        half_precision_weights: bool = True
        """Load T5 in bfloat16, 10 GB for IF's instead of 19 GB (upstream: in 8 bit)."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> list[str]:
        """List what is wrong with a configuration."""
        faults = folder_faults(model_path(cfg), MODEL) + text_faults(cfg)
        if cfg.max_length < 1:
            faults.append(
                f"`system.prompt_processor.max_length` is {cfg.max_length}; it must be at least 1, "
                f"and IF was trained with {MAX_LENGTH}."
            )
        return faults

    def cache_details(self) -> str:
        """Describe length and precision, which change an embedding."""
        return encoding_details(self.cfg.max_length, self.cfg.half_precision_weights)

    def encode_missing(self, prompts: list[str]) -> None:
        """Compute and store embeddings."""
        cfg = self.cfg
        self.spawn_func(
            model_path(cfg),
            prompts,
            CACHE_DIR,
            cfg.revision,
            cfg.max_length,
            cfg.half_precision_weights,
        )

    @staticmethod
    def spawn_func(
        pretrained_model_name_or_path: str,
        prompts: list[str],
        cache_dir: str,
        revision: Optional[str] = None,
        max_length: int = MAX_LENGTH,
        half_precision: bool = True,
    ) -> None:
        """Embed prompts and store each under its hash; the encoder is freed on return."""
        tokenizer, encoder = load_t5(pretrained_model_name_or_path, revision, half_precision)
        embeddings = encode_prompts(tokenizer, encoder.to(get_device()), prompts, max_length)
        details = encoding_details(max_length, half_precision)
        for prompt, embedding in zip(prompts, embeddings, strict=True):
            name = hash_prompt(pretrained_model_name_or_path, prompt, revision, details)
            store_embedding(embedding, os.path.join(cache_dir, f"{name}.pt"))


def encoding_details(max_length: int, half_precision: bool) -> str:
    """Name length and precision of an encoding, for the cache."""
    return f" T5, {max_length} tokens, {'bfloat16' if half_precision else 'float32'}"
