"""PickScore as a reward: a CLIP ViT-H/14 tuned on which of two images people picked."""

from dataclasses import dataclass
from typing import Any, List

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import refuse
from ..model_folders import fetching, folder_faults, loading, resolve
from ..networks import load_network, number_type, number_type_faults
from .clip import (
    BLOCK,
    PATH_KEY,
    PROCESSOR,
    CLIPNetwork,
    load_tokenizer,
    processor_faults,
)

MODEL = "yuvalkirstain/PickScore_v1"


@threestudio.register("reward-model-pick-score")
class PickScoreRewardModel(CLIPNetwork):
    """PickScore v1: `exp(logit scale) cos(image features, text features)`, about 18 to 24.

    Score and tokenizer as published (Kirstain et al. 2023, Pick-a-Pic); the preprocessing is
    that of CLIP, read from the processor.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = MODEL
        """CLIPModel folder or hub id of the tuned network."""
        processor_name_or_path: str = PROCESSOR
        """Folder or hub id of its tokenizer and image preprocessing."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        path = cfg.pretrained_model_name_or_path
        faults = folder_faults(path, ("config.json",), PATH_KEY, fetching(MODEL))
        faults += processor_faults(cfg.processor_name_or_path)
        return faults + number_type_faults(cfg, BLOCK)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        from transformers import CLIPModel

        path = resolve(self.cfg.pretrained_model_name_or_path)
        processor = resolve(self.cfg.processor_name_or_path)
        dtype = number_type(self.device, self.cfg)
        with loading(path, "CLIPModel", PATH_KEY):
            model = load_network(CLIPModel, path, PATH_KEY, dtype=dtype)
        self.adopt(model, load_tokenizer(processor), processor)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        return self.model.logit_scale.float().exp() * self.cosine(images, prompts)
