"""CLIPScore as a reward: cosine of image and text features, times 100."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import refuse
from ..model_folders import folder_faults, loading, read_json, resolve
from .base import AbstractRewardModel

PATH_KEY = "system.guidance.reward_model.pretrained_model_name_or_path"
"""Where the YAML names the model, for messages."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
CACHE_SIZE = 256
"""Prompts whose text features are kept."""


def resize_and_crop(images: Float[Tensor, "N 3 H W"], size: int) -> Float[Tensor, "N 3 S S"]:
    """Resize the shorter side to `size` (bicubic, antialiased), then crop the centre square."""
    height, width = images.shape[-2:]
    scale = size / min(height, width)
    target = (max(round(height * scale), size), max(round(width * scale), size))
    if target != (height, width):
        images = F.interpolate(
            images, target, mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return images[..., top : top + size, left : left + size]


def preprocessing(path: str, image_size: int) -> Tuple[int, List[float], List[float]]:
    """Return image size, mean and deviation of a model folder; CLIP's where it does not say."""
    config = read_json(path, "preprocessor_config.json") or {}
    size = config.get("crop_size") or config.get("size") or image_size
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height") or image_size
    return (
        int(size),
        [float(value) for value in config.get("image_mean", CLIP_MEAN)],
        [float(value) for value in config.get("image_std", CLIP_STD)],
    )


@threestudio.register("reward-model-clip")
class CLIPRewardModel(AbstractRewardModel):
    """CLIPScore: `100 cos(image features, text features)`, about 15 to 35 for CLIP ViT-L/14.

    Loads any transformers `CLIPModel` folder or hub id. The preprocessing is plain torch and
    differentiable; text features are kept per prompt. The networks run in their own number type
    with autocast off, scores are single precision.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = "openai/clip-vit-large-patch14"
        """CLIPModel folder or hub id (paper: CLIP ViT-L/14)."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        return folder_faults(cfg.pretrained_model_name_or_path, ("config.json",), PATH_KEY)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        from transformers import AutoTokenizer, CLIPModel

        path = resolve(self.cfg.pretrained_model_name_or_path)
        half = self.cfg.half_precision_weights and torch.device(self.device).type == "cuda"
        with loading(path, "CLIPModel", PATH_KEY):
            model = CLIPModel.from_pretrained(path, dtype=torch.float16 if half else torch.float32)
            self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.image_size, mean, std = preprocessing(path, model.config.vision_config.image_size)
        self.mean, self.std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        self.max_tokens = model.config.text_config.max_position_embeddings
        self._text_cache: Dict[str, Float[Tensor, " D"]] = {}

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        pixels = resize_and_crop(images.float(), self.image_size)
        pixels = (pixels - self.mean.to(pixels)) / self.std.to(pixels)
        image_features = self._features(
            self.model.get_image_features,
            pixel_values=pixels.to(self.model.device, self.model.dtype),
        )
        return 100.0 * (image_features * self.text_features(prompts)).sum(dim=-1)

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
            features = self._features(
                self.model.get_text_features,
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
            )
            self._text_cache.update(zip(new, features, strict=True))
        return torch.stack([self._text_cache[prompt] for prompt in prompts])

    def _features(self, encode: Callable[..., Any], **inputs: Tensor) -> Float[Tensor, "N D"]:
        """Encode with autocast off; unit vectors in single precision."""
        with torch.autocast(device_type=self.model.device.type, enabled=False):
            features = encode(**inputs)
            features = getattr(features, "pooler_output", features)  # a tensor in transformers 4
            return F.normalize(features.float(), dim=-1)
