"""PickScore as a reward: a CLIP ViT-H/14 tuned on which of two images people picked."""

from dataclasses import dataclass
from typing import Any, List

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import refuse
from ..model_folders import folder_faults, loading, resolve
from .clip import (
    PATH_KEY,
    PROCESSOR,
    CLIPNetwork,
    load_tokenizer,
    network_dtype,
    processor_faults,
)


@threestudio.register("reward-model-pick-score")
class PickScoreRewardModel(CLIPNetwork):
    """PickScore v1: `exp(logit scale) cos(image features, text features)`, about 18 to 24.

    Score and tokenizer as published (Kirstain et al. 2023, Pick-a-Pic); the preprocessing is
    that of CLIP, read from the processor.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = "yuvalkirstain/PickScore_v1"
        """CLIPModel folder or hub id of the tuned network."""
        processor_name_or_path: str = PROCESSOR
        """Folder or hub id of its tokenizer and image preprocessing."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        faults = folder_faults(cfg.pretrained_model_name_or_path, ("config.json",), PATH_KEY)
        return faults + processor_faults(cfg.processor_name_or_path)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        from transformers import CLIPModel

        path = resolve(self.cfg.pretrained_model_name_or_path)
        processor = resolve(self.cfg.processor_name_or_path)
        dtype = network_dtype(self.device, self.cfg.half_precision_weights)
        with loading(path, "CLIPModel", PATH_KEY):
            model = CLIPModel.from_pretrained(path, dtype=dtype)
        self.adopt(model, load_tokenizer(processor), processor)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        return self.model.logit_scale.float().exp() * self.cosine(images, prompts)
