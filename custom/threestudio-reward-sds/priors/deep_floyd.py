"""Single-view diffusion in pixels: the first stage of DeepFloyd IF, and every folder of its layout.

The "latents" of this prior are the images themselves, small and in [-1, 1]. The text embeddings
are those of a T5 encoder, which the prompt processor runs; nothing here loads it.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Dict, List, Optional

from jaxtyping import Float
from torch import Tensor

import threestudio
from threestudio.utils.base import BaseObject

from ..errors import UserError, refuse
from ..model_folders import fetching, folder_faults, is_local, read_json, resolve
from ..networks import number_type, number_type_faults
from ..streams import Generators
from .base import Cameras, Conditioning
from .folder import BLOCK, PATH_KEY, PIXEL_FILES, Diffusion, load_diffusion
from .text import single_view_text
from .unet import AbstractUNetPrior, apply_options, at_least_single, option_faults, resize

MODEL = "DeepFloyd/IF-I-XL-v1.0"


@threestudio.register("deep-floyd-prior")
class DeepFloydPrior(AbstractUNetPrior):
    """Each image on its own, in pixels (64 x 64 for IF), conditioned on text.

    Use it with `deep-floyd-prompt-processor`. Published SDS scales count from the conditional
    prediction, see `scale_from_text`. Previews keep x0 as it is: the dynamic thresholding of IF's
    own sampler is left out.
    """

    @dataclass
    class Config(BaseObject.Config):
        pretrained_model_name_or_path: str = MODEL
        """Diffusers folder or hub id of a first stage; those of IF are gated on the hub."""
        mirrors: dict = field(default_factory=dict)
        """Hub id of a model that left the hub -> where it is now, besides those of Stable
        Diffusion."""
        half_precision_weights: bool = True
        """Half precision on CUDA; the CPU always computes in single precision."""
        half_precision_type: str = "float16"
        """Which half precision: "float16" or "bfloat16"."""
        view_dependent_prompting: bool = True
        """Add ", front view" etc. to the prompt according to the camera."""
        enable_attention_slicing: bool = False
        """Compute attention in slices: less memory, slower."""
        enable_channels_last_format: bool = True
        """Channels-last memory format of the UNet, faster on some GPUs."""
        enable_memory_efficient_attention: bool = False
        """Accepted for baseline configs; torch's fused attention is always used."""
        enable_sequential_cpu_offload: bool = False
        """Not supported; lower `chunk_size` to save memory."""

    cfg: Config
    scale_from_text: ClassVar[bool] = True
    flat_defaults: ClassVar[Dict[str, Any]] = {"guidance_scale": 20.0, "recon_loss": False}

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        path = resolve(cfg.pretrained_model_name_or_path, cfg.mirrors)
        faults = _weights_faults(path) + option_faults(cfg)
        return faults + number_type_faults(cfg, BLOCK)

    def configure(self) -> None:
        refuse(self.check(self.cfg))
        model = self._load()
        apply_options(model.unet, self.cfg)
        self.install_unet(model, num_views=1)

    def _load(self) -> Diffusion:
        path = resolve(self.cfg.pretrained_model_name_or_path, self.cfg.mirrors)
        try:
            return load_diffusion(path, self.device, number_type(self.device, self.cfg))
        except UserError as error:
            raise UserError(f"{error}{_licence_hint(path)}") from error

    def encode(
        self,
        rgb: Float[Tensor, "B H W C"],
        generators: Optional[Generators],
        as_latents: bool = False,
    ) -> Float[Tensor, "B c h w"]:
        """Resize renders to the model's size and map them from [0, 1] to [-1, 1]."""
        if as_latents:
            raise UserError(
                "`rgb_as_latents` has no meaning for `deep-floyd-prior`: it denoises images, not "
                "latents. Render RGB (in 2D `system.image_type: image-parameter`), or use "
                "`stable-diffusion-prior`."
            )
        images = at_least_single(rgb).permute(0, 3, 1, 2)
        return resize(images, self.latent_size) * 2 - 1

    def decode(self, latents: Float[Tensor, "N c h w"]) -> Float[Tensor, "N 3 H W"]:
        return (latents * 0.5 + 0.5).clamp(0, 1)

    def conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        found = single_view_text(prompt_utils, cameras, self.cfg.view_dependent_prompting)
        given = found.inputs["encoder_hidden_states"].shape[-1]
        config = self.unet.config
        expected = config.encoder_hid_dim or config.cross_attention_dim
        if given != expected:
            raise UserError(
                f"The text embeddings have {given} numbers per token, but the model reads "
                f'{expected}. Set `system.prompt_processor_type: "deep-floyd-prompt-processor"` '
                "and give it the same model in "
                "`system.prompt_processor.pretrained_model_name_or_path`."
            )
        return found


def _weights_faults(path: str) -> List[str]:
    """Say why the weights cannot be loaded: not there, or not those of a first stage."""
    hint = _licence_hint(MODEL if is_local(path) else path)
    found = folder_faults(path, PIXEL_FILES, PATH_KEY, fetching(MODEL))
    faults = [fault + hint for fault in found]
    config = None if faults else read_json(path, "unet/config.json")
    channels = 3 if config is None else config.get("in_channels", 4)
    if channels != 3:
        faults.append(
            f"`{PATH_KEY}` is '{path}', but its UNet reads {channels} channels, not RGB. Give the "
            "first stage of a pixel model such as IF (later stages only enlarge images), or use "
            '`prior_type: "stable-diffusion-prior"` for latent models.'
        )
    return faults


def _licence_hint(path: str) -> str:
    """Say how to get a gated model from the hub; nothing for a folder."""
    if is_local(path):
        return ""
    return (
        f" The models of DeepFloyd are gated: accept the licence on https://huggingface.co/{path} "
        'and run `hf auth login` before; `--include "unet/*" --include "scheduler/*"` leaves out '
        "what the prior does not read."
    )
