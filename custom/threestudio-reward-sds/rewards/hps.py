"""HPS v2 as a reward: a CLIP ViT-H/14 tuned on rankings of generated images by people."""

from dataclasses import dataclass
from typing import Any, List

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..model_folders import resolve
from ..networks import number_type, number_type_faults
from .checkpoint_file import PublishedFile, checksum_faults, load_state, sha256_key
from .clip import (
    BLOCK,
    PROCESSOR,
    PROCESSOR_KEY,
    CLIPNetwork,
    load_tokenizer,
    processor_faults,
)
from .open_clip_weights import load_open_clip

FILE_KEY = f"{BLOCK}.checkpoint_path"
HEADS_KEY = f"{BLOCK}.num_heads"
"""Where the YAML names the weights and the number of heads, for messages."""

MODEL = "xswu/HPSv2"
CHECKPOINT = PublishedFile(MODEL, "HPS_v2.1_compressed.pt", FILE_KEY)


@threestudio.register("reward-model-hps")
class HPSRewardModel(CLIPNetwork):
    """HPS v2.1: `100 cos(image features, text features)`, about 20 to 35.

    The score of the paper (Wu et al. 2023, Human Preference Score v2) is the cosine; its tables
    print it times 100, which is also the scale of CLIPScore. Images that are not square are
    cropped, as for CLIP.
    """

    @dataclass
    class Config(BaseObject.Config):
        checkpoint_path: str = MODEL
        """HPS_v2.1_compressed.pt, its folder, or a hub id."""
        checkpoint_sha256: str = ""
        """Checksum that the file must have; empty for any."""
        processor_name_or_path: str = PROCESSOR
        """Folder or hub id of tokenizer and image preprocessing."""
        num_heads: int = 16
        """Attention heads of both towers, which the file does not say (ViT-H/14: 16)."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = CHECKPOINT.faults(cfg.checkpoint_path)
        faults += checksum_faults(cfg.checkpoint_sha256, sha256_key(FILE_KEY))
        if cfg.num_heads < 1:
            faults.append(f"`{HEADS_KEY}` is {cfg.num_heads}, but must be 1 or more.")
        faults += processor_faults(cfg.processor_name_or_path)
        return faults + number_type_faults(cfg, BLOCK)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        cfg = self.cfg
        file = CHECKPOINT.find(cfg.checkpoint_path)
        state = load_state(str(file), cfg.checkpoint_sha256, FILE_KEY)
        dtype = number_type(self.device, cfg)
        model = load_open_clip(state, cfg.num_heads, dtype, FILE_KEY, HEADS_KEY)
        processor = resolve(cfg.processor_name_or_path)
        tokenizer = load_tokenizer(processor)
        end = model.config.text_config.eos_token_id
        if tokenizer.eos_token_id != end:
            raise UserError(
                f"The tokenizer of `{PROCESSOR_KEY}` ('{processor}') ends a text with token "
                f"{tokenizer.eos_token_id}, but the weights of `{FILE_KEY}` expect {end}, the last "
                f"of their vocabulary. Set `{PROCESSOR_KEY}` to the tokenizer of these weights "
                f"(published: {PROCESSOR})."
            )
        self.adopt(model, tokenizer, processor)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        return 100.0 * self.cosine(images, prompts)
