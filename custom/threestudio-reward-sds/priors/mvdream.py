"""Multi-view latent diffusion: MVDream (arXiv 2308.16512) and every folder of its kind.

V views of a scene attend to one another, and each is conditioned on its camera: the camera-to-world
matrix with the translation normalised, flattened to 16 numbers.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import refuse
from ..model_folders import folder_faults, read_json, resolve
from ..networks import number_type, number_type_faults
from .adapter import CAMERA_DIM
from .base import Cameras, Conditioning
from .folder import BLOCK, DIFFUSION_FILES, load_latent_diffusion
from .latent import AbstractLatentPrior
from .mvdream_checkpoint import (
    FETCHED,
    PUBLISHED,
    cached_checkpoint,
    checkpoint_faults,
    fetch_command,
    is_checkpoint,
    load_checkpoint,
)
from .text import text_embeddings


def camera_embedding(c2w: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 16"]:
    """Flatten camera matrices, row by row, with the translation normalised to unit length.

    The batch's own `c2w` is left as it is; the original code normalises it in place.
    """
    translation = F.normalize(c2w[:, :3, 3:], dim=1)
    upper = torch.cat([c2w[:, :3, :3], translation], dim=2)
    return torch.cat([upper, c2w[:, 3:]], dim=1).flatten(1)


class MultiViewAttention:
    """Self-attention over all tokens of the V views of a scene (diffusers attention processor)."""

    def __init__(self, num_views: int):
        self.num_views = num_views

    def __call__(
        self, attn: Any, hidden_states: Float[Tensor, "N L D"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "N L D"]:
        """Attend within blocks of V neighbouring rows; query, key and value see the same tokens."""
        tokens = hidden_states.unflatten(0, (-1, self.num_views)).flatten(1, 2)  # [scenes V*L D]
        query, key, value = (
            project(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        output = attn.to_out[1](attn.to_out[0](mixed))
        return output.reshape(hidden_states.shape)


def share_views(unet: Any, num_views: int) -> None:
    """Let every self-attention of the UNet see all views of a scene; cross-attention stays."""
    unet.set_attn_processor(
        {
            name: MultiViewAttention(num_views) if name.endswith("attn1.processor") else processor
            for name, processor in unet.attn_processors.items()
        }
    )


@threestudio.register("mvdream-prior")
class MVDreamPrior(AbstractLatentPrior):
    """V views denoised jointly, conditioned on text and cameras.

    Loads an original MVDream checkpoint file, or a diffusers folder whose UNet has
    `class_embed_type: projection` with 16 inputs.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: Optional[str] = None
        """Diffusers folder or hub id of a camera-conditioned model, or an original checkpoint."""
        ckpt_path: Optional[str] = None
        """The baseline's key for the same; read when the key above is null."""
        model_name: str = "sd-v2.1-base-4view"
        """Original checkpoint that is taken from the local hub cache when both keys are null."""
        camera_condition_type: str = "rotation"
        """The baseline's key: only "rotation" exists (the whole matrix, normalised)."""
        mirrors: dict = field(default_factory=dict)
        """Hub id of a model that left the hub -> where it is now, besides those of Stable
        Diffusion."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""
        view_dependent_prompting: bool = False
        """Add ", front view" etc. to the prompt according to the camera."""
        n_view: int = 4
        """V, views per scene; `data.n_view` must be the same."""
        image_size: Optional[int] = None
        """Pixels of the encoded image (MVDream: 256); null: what the model was trained on."""
        encode_sample: bool = True
        """Draw from the VAE's posterior as the baseline does; false: its mean, without noise."""

    cfg: Config
    rgb_is_unit: ClassVar[bool] = True
    flat_defaults: ClassVar[Dict[str, Any]] = {"guidance_scale": 50.0, "recon_loss": True}

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        faults = []
        if cfg.camera_condition_type != "rotation":
            faults.append(
                f"`camera_condition_type` is '{cfg.camera_condition_type}', but only 'rotation' "
                "exists. Remove the key."
            )
        if cfg.n_view < 1:
            faults.append(f"`n_view` is {cfg.n_view}, but must be 1 or more, e.g. 4.")
        return faults + number_type_faults(cfg, BLOCK) + _weights_faults(cfg)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        _, path = _weights(self.cfg)
        load = load_checkpoint if is_checkpoint(path) else load_latent_diffusion
        model = load(path, self.device, number_type(self.device, self.cfg))
        share_views(model.unet, self.cfg.n_view)
        self.install(model, self.cfg.n_view, self.cfg.image_size)

    def conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        text = text_embeddings(prompt_utils, cameras, self.cfg.view_dependent_prompting)
        camera = self.camera_numbers(cameras).repeat(2, 1)
        return Conditioning({"encoder_hidden_states": text, "class_labels": camera})

    def camera_numbers(self, cameras: Cameras) -> Float[Tensor, "B 16"]:
        if cameras.c2w is None:
            raise ValueError(
                "`mvdream-prior` needs the camera matrices `c2w` in the batch. Use "
                '`data_type: "mvdream-random-multiview-camera-datamodule"`.'
            )
        return camera_embedding(cameras.c2w)


def _weights(cfg: Any) -> Tuple[str, Optional[str]]:
    """Return the key that gives the weights, and their path; None if there are none."""
    for key in ("pretrained_model_name_or_path", "ckpt_path"):
        if getattr(cfg, key):
            return key, resolve(getattr(cfg, key), cfg.mirrors)
    return "ckpt_path", cached_checkpoint(cfg.model_name)


def _weights_faults(cfg: Any) -> List[str]:
    """Say why the weights cannot be loaded: none there, or the wrong file or folder."""
    key, path = _weights(cfg)
    if path is None:
        return _nothing_given(cfg.model_name)
    if is_checkpoint(path):
        return checkpoint_faults(path, f"system.guidance.{key}")
    source = f"On a machine with a network run {fetch_command(path)}"
    faults = folder_faults(path, DIFFUSION_FILES, f"system.guidance.{key}", source)
    config = None if faults else read_json(path, "unet/config.json")
    if config is not None and config.get("projection_class_embeddings_input_dim") != CAMERA_DIM:
        faults.append(
            f"`system.guidance.{key}` is '{path}', but its UNet has no camera embedding "
            f"(`class_embed_type: projection` with {CAMERA_DIM} inputs). Use "
            '`prior_type: "stable-diffusion-prior"` for single-view models.'
        )
    return faults


def _nothing_given(name: str) -> List[str]:
    """Say how to get the checkpoint called `name`, and what to set."""
    if name not in PUBLISHED:
        return [
            f"`system.guidance.model_name` is '{name}', but the published checkpoints are "
            f"{' and '.join(PUBLISHED)}. Set it to one of them, or give a file in "
            "`system.guidance.ckpt_path`."
        ]
    return [
        f"`mvdream-prior` has no weights: '{name}' is not in the local hub cache. Run "
        f"{fetch_command(name)} (5 GB) and set `system.guidance.ckpt_path` to "
        f'"{FETCHED}/{name}.pt", or set `system.guidance.pretrained_model_name_or_path` to a '
        'diffusers folder, e.g. "load/blocks/prior".'
    ]
