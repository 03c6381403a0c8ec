"""ImageReward v1.0 (arXiv 2304.05977) as a reward: what people prefer, given the prompt."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, List

import torch
from jaxtyping import Float, Int
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..model_folders import fetching, folder_faults, loading, resolve
from ..networks import number_type, number_type_faults
from .base import AbstractRewardModel
from .checkpoint_file import PublishedFile, checksum_faults, verify
from .clip import BLOCK, CACHE_SIZE, PATH_KEY
from .image_reward_network import load_image_reward
from .images import CLIP_MEAN, CLIP_STD, normalised

TOKENIZER_KEY = f"{BLOCK}.tokenizer_name_or_path"
CHECKSUM_KEY = f"{BLOCK}.sha256"
"""Where the YAML has the settings, for messages."""

MODEL, WORDS = "zai-org/ImageReward", "google-bert/bert-base-uncased"
"""Hub ids of the weights (formerly THUDM/ImageReward) and of BERT's words."""

CHECKPOINT = PublishedFile(MODEL, "ImageReward.pt", PATH_KEY, beside=("med_config.json",))
SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw scores, published with the checkpoint."""

MAX_TOKENS = 35
"""Length of every tokenised prompt, as published; longer prompts are cut."""


def load_tokenizer(path: str, vocab_size: int) -> Any:
    """Load BERT's tokenizer and add the two tokens that the checkpoint has beyond BERT's.

    Prompts still begin with [CLS], whose output is scored; [DEC] and [ENC] only get their numbers.

    Raises:
        UserError: The vocabulary is not the checkpoint's.
    """
    from transformers import BertTokenizer

    tokenizer = BertTokenizer.from_pretrained(resolve(path))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    if len(tokenizer) != vocab_size:
        raise UserError(
            f"`{TOKENIZER_KEY}` is '{path}', whose vocabulary has {len(tokenizer)} words with "
            f"[DEC] and [ENC], but the checkpoint has {vocab_size}. Give a local folder with the "
            f"vocab.txt of bert-base-uncased, or the hub id {WORDS}."
        )
    return tokenizer


@threestudio.register("reward-model-image-reward")
class ImageRewardModel(AbstractRewardModel):
    """ImageReward: `(raw score - mean) / deviation`, about -2 to 2, of the original checkpoint.

    The sizes of the network are read off the checkpoint's shapes. The preprocessing is CLIP's at
    the checkpoint's image size (224), plain torch and differentiable; the ids of a prompt are
    kept. The encoders run in their own number type with autocast off, scores are single precision.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = MODEL
        """ImageReward.pt, its folder, or a hub id (formerly THUDM/ImageReward); `med_config.json`
        beside it is read if it is there."""
        tokenizer_name_or_path: str = WORDS
        """Folder with BERT's vocab.txt, or a hub id."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""
        sha256: str = ""
        """SHA-256 of ImageReward.pt; "": the file is not checked."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = CHECKPOINT.faults(cfg.pretrained_model_name_or_path)
        words = cfg.tokenizer_name_or_path
        faults += folder_faults(words, ("vocab.txt",), TOKENIZER_KEY, fetching(WORDS))
        faults += checksum_faults(cfg.sha256, CHECKSUM_KEY)
        return faults + number_type_faults(cfg, BLOCK)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        path, words = self.cfg.pretrained_model_name_or_path, self.cfg.tokenizer_name_or_path
        dtype = number_type(self.device, self.cfg)
        with loading(resolve(path), "ImageReward", PATH_KEY):
            file = CHECKPOINT.find(path)
            if self.cfg.sha256:
                verify(str(file), self.cfg.sha256, PATH_KEY, CHECKSUM_KEY)
            self.model = load_image_reward(file, self.device, dtype)
        with loading(resolve(words), "BERT tokenizer", TOKENIZER_KEY):
            self.tokenizer = load_tokenizer(words, self.model.text.config.vocab_size)
        self.image_size: int = self.model.vision.config.image_size
        self.tokens = lru_cache(maxsize=CACHE_SIZE)(self._tokenise)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        encoder = self.model.vision
        pixels = self.preprocess(images).to(encoder.device, encoder.dtype)
        tokens = torch.stack([self.tokens(prompt) for prompt in prompts]).to(encoder.device)
        with torch.autocast(device_type=encoder.device.type, enabled=False):
            raw = self.model(pixels, tokens[:, 0], tokens[:, 1])
        return (raw - SCORE_MEAN) / SCORE_STD

    def preprocess(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 S S"]:
        """Resize, crop and normalise images in [0, 1]."""
        return normalised(images, self.image_size, CLIP_MEAN, CLIP_STD)

    def _tokenise(self, prompt: str) -> Int[Tensor, "2 S"]:
        """Return ids and attention mask of a prompt."""
        tokens = self.tokenizer(
            prompt,
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return torch.cat([tokens["input_ids"], tokens["attention_mask"]])
