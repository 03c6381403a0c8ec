"""Single-view latent diffusion: Stable Diffusion and every folder of its layout."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional

import torch
from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..model_folders import fetching, folder_faults, resolve
from ..networks import number_type, number_type_faults
from .adapter import CAMERA_DIM
from .base import Cameras, Conditioning
from .folder import BLOCK, DIFFUSION_FILES, PATH_KEY, load_latent_diffusion
from .latent import AbstractLatentPrior
from .text import single_view_text
from .unet import apply_options, option_faults

MODEL = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""The baseline's default, at its living mirror."""

CAMERA_CONDITIONS = {"extrinsics": "c2w", "mvp": "mvp", "none": None}
"""Value of `camera_condition_type` to the field of `Cameras` that it means; None means zeros."""


@threestudio.register("stable-diffusion-prior")
class StableDiffusionPrior(AbstractLatentPrior):
    """Each image on its own, conditioned on text. Loads any UNet2DConditionModel diffusers folder.

    A UNet with a camera embedding is used without it (its single-view mode). Published SDS scales
    for Stable Diffusion count from the conditional prediction, see `scale_from_text`.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = MODEL
        """Diffusers folder or hub id (the baseline's default, at its living mirror)."""
        mirrors: dict = field(default_factory=dict)
        """Hub id of a model that left the hub -> where it is now, besides those of Stable
        Diffusion."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""
        view_dependent_prompting: bool = True
        """Add ", front view" etc. to the prompt according to the camera."""
        camera_condition_type: str = "extrinsics"
        """Camera matrix that VSD's adapter sees: "extrinsics" (camera-to-world), "mvp", or "none"
        for images without a camera (official 2D code: zeros)."""
        image_size: Optional[int] = None
        """Pixels of the encoded image; null: what the model was trained on."""
        encode_sample: bool = True
        """Draw from the VAE's posterior as the baseline does; false: its mean, without noise."""
        enable_attention_slicing: bool = False
        """Compute attention in slices: less memory, slower."""
        enable_channels_last_format: bool = False
        """Channels-last memory format of the UNet, faster on some GPUs."""
        enable_memory_efficient_attention: bool = False
        """Accepted for baseline configs; torch's fused attention is always used."""
        enable_sequential_cpu_offload: bool = False
        """Not supported; lower `chunk_size` to save memory."""
        token_merging: bool = False
        """Not supported."""
        token_merging_params: Optional[dict] = None
        """Accepted for baseline configs; unused without `token_merging`."""

    cfg: Config
    scale_from_text: ClassVar[bool] = True
    flat_defaults: ClassVar[Dict[str, Any]] = {"guidance_scale": 100.0, "recon_loss": False}

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        path = resolve(cfg.pretrained_model_name_or_path, cfg.mirrors)
        faults = folder_faults(path, DIFFUSION_FILES, PATH_KEY, fetching(MODEL))
        faults += option_faults(cfg) + number_type_faults(cfg, BLOCK)
        if cfg.camera_condition_type not in CAMERA_CONDITIONS:
            faults.append(
                f"`camera_condition_type` is '{cfg.camera_condition_type}', but must be one of "
                f"{', '.join(CAMERA_CONDITIONS)}."
            )
        if cfg.token_merging:
            faults.append("`token_merging` is not supported. Remove it from `system.guidance`.")
        return faults

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        path = resolve(self.cfg.pretrained_model_name_or_path, self.cfg.mirrors)
        model = load_latent_diffusion(path, self.device, number_type(self.device, self.cfg))
        model.unet.class_embedding = None  # single-view mode of a camera-conditioned UNet
        apply_options(model.unet, self.cfg)
        self.install(model, num_views=1, image_size=self.cfg.image_size)

    def camera_numbers(self, cameras: Cameras) -> Float[Tensor, "B 16"]:
        name = CAMERA_CONDITIONS[self.cfg.camera_condition_type]
        if name is None:
            return torch.zeros(len(cameras.azimuth), CAMERA_DIM, device=cameras.azimuth.device)
        matrices = getattr(cameras, name)
        if matrices is None:
            raise UserError(
                f"VSD needs the camera matrices `{'mvp_mtx' if name == 'mvp' else name}` in the "
                'batch. Use `data_type: "random-camera-datamodule"`, or, in 2D, '
                '`system.guidance.camera_condition_type: "none"`.'
            )
        return matrices.flatten(1)

    def conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        return single_view_text(prompt_utils, cameras, self.cfg.view_dependent_prompting)
