"""Rewards that compare image and prompt by a CLIP network; CLIPScore is the plain one."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import refuse
from ..model_folders import fetching, folder_faults, loading, resolve
from ..networks import load_network, number_type, number_type_faults
from .base import AbstractRewardModel
from .images import normalised, preprocessing

BLOCK = "system.guidance.reward_model"
PATH_KEY = f"{BLOCK}.pretrained_model_name_or_path"
"""Where the YAML has the settings, and names the model, for messages."""

MODEL = "openai/clip-vit-large-patch14"
"""The CLIP of the paper's CLIPScore and of the aesthetic predictors."""

PROCESSOR = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""The CLIP that PickScore and HPS v2 were tuned from: their tokenizer and preprocessing."""

PROCESSOR_KEY = f"{BLOCK}.processor_name_or_path"
"""Where the YAML names the processor, for messages."""

CACHE_SIZE = 256
"""Prompts whose text features are kept."""


def processor_faults(path: str) -> List[str]:
    """Say why there is no tokenizer at `path`, without loading it."""
    return folder_faults(path, ("tokenizer_config.json",), PROCESSOR_KEY, fetching(PROCESSOR))


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a processor folder or hub id.

    Raises:
        UserError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    with loading(path, "CLIP processor", PROCESSOR_KEY):
        return AutoTokenizer.from_pretrained(path)


def unit_features(
    encode: Callable[..., Any], device: torch.device, **inputs: Tensor
) -> Float[Tensor, "N D"]:
    """Encode with autocast off; unit vectors in single precision."""
    with torch.autocast(device_type=device.type, enabled=False):
        features = encode(**inputs)
        features = getattr(features, "pooler_output", features)  # a tensor in transformers 4
        return F.normalize(features.float(), dim=-1)


class CLIPNetwork(AbstractRewardModel):
    """Features of images and prompts by a transformers `CLIPModel`, wherever its weights are from.

    The preprocessing is plain torch and differentiable; text features are kept per prompt. The
    networks run in their own number type with autocast off, features are single precision.
    """

    def adopt(self, model: Any, tokenizer: Any, processor: str) -> None:
        """Take a loaded network, frozen from here on.

        Args:
            model: The `CLIPModel`.
            tokenizer: Its tokenizer.
            processor: Folder or hub id that says how images are prepared.
        """
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing(processor, model.config.vision_config.image_size)
        self.max_tokens = model.config.text_config.max_position_embeddings
        self._text_cache: Dict[str, Float[Tensor, " D"]] = {}

    def cosine(self, images: Float[Tensor, "N 3 H W"], prompts: List[str]) -> Float[Tensor, " N"]:
        """Compare each image with its own prompt."""
        return (self.image_features(images) * self.text_features(prompts)).sum(dim=-1)

    def image_features(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        """Return the normalised features of images in [0, 1]."""
        pixels = normalised(images, *self.preprocessing)
        return unit_features(
            self.model.get_image_features,
            self.model.device,
            pixel_values=pixels.to(self.model.device, self.model.dtype),
        )

    @torch.no_grad()
    def text_features(self, prompts: List[str]) -> Float[Tensor, "N D"]:
        """Return the normalised text features of the prompts, each encoded once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._text_cache]
        if new:
            if len(self._text_cache) + len(new) > CACHE_SIZE:
                self._text_cache.clear()
                new = list(dict.fromkeys(prompts))
            tokens = self.tokenizer(
                new,
                padding="max_length",
                max_length=self.max_tokens,
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            features = unit_features(
                self.model.get_text_features,
                self.model.device,
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            )
            self._text_cache.update(zip(new, features, strict=True))
        return torch.stack([self._text_cache[prompt] for prompt in prompts])


@threestudio.register("reward-model-clip")
class CLIPRewardModel(CLIPNetwork):
    """CLIPScore: `100 cos(image features, text features)`, about 15 to 35 for CLIP ViT-L/14.

    Loads any transformers `CLIPModel` folder or hub id.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = MODEL
        """CLIPModel folder or hub id (paper: CLIP ViT-L/14)."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        path = cfg.pretrained_model_name_or_path
        faults = folder_faults(path, ("config.json",), PATH_KEY, fetching(MODEL))
        return faults + number_type_faults(cfg, BLOCK)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        from transformers import AutoTokenizer, CLIPModel

        path = resolve(self.cfg.pretrained_model_name_or_path)
        dtype = number_type(self.device, self.cfg)
        with loading(path, "CLIPModel", PATH_KEY):
            model = load_network(CLIPModel, path, PATH_KEY, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(path)
        self.adopt(model, tokenizer, path)

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        return 100.0 * self.cosine(images, prompts)
