"""Text of the blocks world: a CLIP tokenizer in which every word is one token (anything else falls
back to bytes), and the encoding of captions."""

import json

from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .captions import COLORS, RELATIONS, SHAPES, VIEWS

MAX_TOKENS = 16
"""A pair with its view suffix has 13 tokens; two more mark start and end."""

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"


def build_tokenizer() -> CLIPTokenizer:
    """Learn merges until each word of the captions is one token."""
    words = {"a", "an", "view", ",", *COLORS, *SHAPES, *VIEWS, *" ".join(RELATIONS).split()}
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    learner.train_from_iterator(
        [[" ".join(sorted(words))] * 4],
        trainers.BpeTrainer(
            vocab_size=2000, min_frequency=1, end_of_word_suffix=WORD_END, show_progress=False
        ),
    )
    vocabulary = _merge_order(learner)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = alphabet + [letter + WORD_END for letter in alphabet]
    tokens += [left + right for left, right in vocabulary] + [START, END]
    unique = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=unique, merges=vocabulary, model_max_length=MAX_TOKENS)


def _merge_order(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges
    ]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Int[Tensor, "N S"]:
    """Return token ids, padded to and cut at the longest length."""
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def encode_text(
    tokenizer: CLIPTokenizer, encoder: CLIPTextModel, texts: list[str]
) -> Float[Tensor, "N S D"]:
    """Encode texts as Stable Diffusion does: the last hidden state, padding included."""
    unique = list(dict.fromkeys(texts))
    hidden = encoder(tokenize(tokenizer, unique).to(encoder.device)).last_hidden_state
    return hidden[[unique.index(text) for text in texts]]
