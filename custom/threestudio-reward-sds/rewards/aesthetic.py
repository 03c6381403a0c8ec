"""LAION's aesthetic predictors as a reward: heads on the image features of CLIP ViT-L/14."""

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..model_folders import fetching, folder_faults, loading, resolve
from ..networks import load_network, number_type, number_type_faults
from .base import AbstractRewardModel
from .checkpoint_file import file_faults, load_state, name_differences
from .clip import BLOCK, MODEL, PATH_KEY, unit_features
from .images import normalised, preprocessing

HEAD_KEY = f"{BLOCK}.head_path"
VERSION_KEY = f"{BLOCK}.version"
"""Where the YAML names the head and its version, for messages."""

GITHUB = "https://github.com"
SOURCES = {
    "v1": f"{GITHUB}/LAION-AI/aesthetic-predictor/raw/main/sa_0_4_vit_l_14_linear.pth",
    "v2": f"{GITHUB}/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "ava%2Blogos-l14-linearMSE.pth",
}
"""Where the published heads are."""

LAYERS = {
    "v1": {"": 1},
    "v2": {"layers.0.": 1024, "layers.2.": 128, "layers.4.": 64, "layers.6.": 16, "layers.7.": 1},
}
"""Prefix of each linear layer -> its outputs. Numbers left out are dropouts of the training."""


def head_shapes(version: str, num_features: int) -> Dict[str, Tuple[int, ...]]:
    """Return the shape of every tensor of a head."""
    shapes: Dict[str, Tuple[int, ...]] = {}
    for prefix, outputs in LAYERS[version].items():
        shapes[f"{prefix}weight"] = (outputs, num_features)
        shapes[f"{prefix}bias"] = (outputs,)
        num_features = outputs
    return shapes


def check_head(state: Dict[str, Tensor], version: str, num_features: int) -> None:
    """Make sure that a head is the one of this version, for image features of this width.

    Raises:
        UserError: It is not; the message names the tensors that are missing or not expected.
    """
    expected = head_shapes(version, num_features)
    differences = name_differences(state, expected) or "; ".join(
        f"{name} has shape {list(state[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if tuple(state[name].shape) != shape
    )
    if differences:
        raise UserError(
            f"The file of `{HEAD_KEY}` is not an aesthetic head of version {version} for "
            f"{num_features} image features: {differences}. Set `{VERSION_KEY}` to the version of "
            f"the file, or `{HEAD_KEY}` to the head of {SOURCES[version]} ({num_features} features "
            f"come from the network of `{PATH_KEY}`)."
        )


@threestudio.register("reward-model-aesthetic")
class AestheticRewardModel(AbstractRewardModel):
    """LAION's aesthetic score of an image, about 1 to 10; the prompt is ignored.

    Version v1 is one linear layer, as in the official RewardSDS; v2 is five without activations
    between them. Both read the L2-normalised image features of CLIP ViT-L/14. Their scales
    differ, so the version is part of the logged name, `reward_aesthetic_v1`.
    """

    @dataclass
    class Config(BaseObject.Config):
        version: str = "v1"
        """ "v1" (paper and official code) or "v2"."""
        head_path: str = ""
        """Head: `sa_0_4_vit_l_14_linear.pth` (v1) or `ava+logos-l14-linearMSE.pth` (v2)."""
        head_sha256: str = ""
        """Checksum that the head must have; empty for any."""
        pretrained_model_name_or_path: str = MODEL
        """CLIPModel folder or hub id of the image features."""
        half_precision_weights: bool = True
        """Half precision of the CLIP network on CUDA; the CPU always computes in single."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""

    cfg: Config

    @staticmethod
    def check(cfg: Any) -> List[str]:
        path = cfg.pretrained_model_name_or_path
        faults = folder_faults(path, ("config.json",), PATH_KEY, fetching(MODEL))
        faults += number_type_faults(cfg, BLOCK)
        if cfg.version not in LAYERS:
            known = " or ".join(f"'{version}'" for version in LAYERS)
            return [*faults, f"`{VERSION_KEY}` is '{cfg.version}', but must be {known}."]
        source = f"Download {SOURCES[cfg.version]}"
        return faults + file_faults(cfg.head_path, cfg.head_sha256, HEAD_KEY, source)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        from transformers import CLIPModel

        cfg = self.cfg
        path = resolve(cfg.pretrained_model_name_or_path)
        dtype = number_type(self.device, cfg)
        state = load_state(cfg.head_path, cfg.head_sha256, HEAD_KEY)
        with loading(path, "CLIPModel", PATH_KEY):
            model = load_network(CLIPModel, path, PATH_KEY, dtype=dtype)
        check_head(state, cfg.version, model.config.projection_dim)
        # Only the image half is kept; the text half is freed with `model`.
        self.vision = model.vision_model.to(self.device).eval().requires_grad_(False)
        self.projection = model.visual_projection.to(self.device).requires_grad_(False)
        self.preprocessing = preprocessing(path, model.config.vision_config.image_size)
        self.head = {name: tensor.float().to(self.device) for name, tensor in state.items()}
        self._report: Dict[str, Tensor] = {}

    def __call__(
        self, images: Float[Tensor, "N 3 H W"], prompts: List[str]
    ) -> Float[Tensor, "..."]:
        pixels = normalised(images, *self.preprocessing)
        scores = unit_features(self._encode, self.vision.device, pixel_values=pixels)
        with torch.autocast(device_type=scores.device.type, enabled=False):
            for prefix in LAYERS[self.cfg.version]:
                weight, bias = self.head[f"{prefix}weight"], self.head[f"{prefix}bias"]
                scores = F.linear(scores, weight, bias)
        return scores.squeeze(dim=-1)

    def _encode(self, pixel_values: Float[Tensor, "N 3 S S"]) -> Float[Tensor, "N D"]:
        pixels = pixel_values.to(self.vision.device, self.vision.dtype)
        return self.projection(self.vision(pixel_values=pixels).pooler_output)

    def candidate_scores(
        self,
        images: Float[Tensor, "K B 3 H W"],
        prompts: List[str],
        num_views: int,
        chunk_size: int,
    ) -> Float[Tensor, "K G"]:
        scores = super().candidate_scores(images, prompts, num_views, chunk_size)
        self._report = {f"aesthetic_{self.cfg.version}": scores.mean()}
        return scores

    def report(self) -> Dict[str, Any]:
        return self._report
