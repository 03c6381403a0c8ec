"""What all priors with a UNet share: the network call in its own number type, options, resizing.

Networks run in their own type with autocast off; results return in the caller's type.
"""

from contextlib import AbstractContextManager
from typing import Any, Dict, List, Tuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .base import AbstractPrior
from .folder import Diffusion


def at_least_single(x: Tensor) -> Tensor:
    """Return `x` in single precision or better: gradients are never combined in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)


def no_autocast(x: Tensor) -> AbstractContextManager:
    """Return a context in which the networks keep their own number type."""
    return torch.autocast(device_type=x.device.type, enabled=False)


def resize(x: Float[Tensor, "N C H W"], size: int) -> Float[Tensor, "N C S S"]:
    """Resize to `size` x `size` (bilinear), or return `x` itself when it has that size."""
    if x.shape[-2:] == (size, size):
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def option_faults(cfg: Any) -> List[str]:
    """Say which options of the baselines about memory and speed are not supported."""
    if not cfg.enable_sequential_cpu_offload:
        return []
    return [
        "`enable_sequential_cpu_offload` is not supported. Remove it and lower "
        "`system.guidance.chunk_size`."
    ]


def apply_options(unet: Any, cfg: Any) -> None:
    """Apply the options of the baselines about memory and speed."""
    if cfg.enable_attention_slicing:
        unet.set_attention_slice("auto")
    if cfg.enable_channels_last_format:
        unet.to(memory_format=torch.channels_last)


class AbstractUNetPrior(AbstractPrior):
    """A frozen UNet2DConditionModel; what it denoises and its conditioning are left open."""

    def install_unet(self, model: Diffusion, num_views: int) -> None:
        """Take over the UNet of a folder and its noise schedule; called once from `configure`."""
        self.unet = model.unet
        self.alpha_bar = model.alpha_bar
        self.prediction_type = model.prediction_type
        self.num_views = num_views
        self.latent_size = model.latent_size

    @property
    def latent_shape(self) -> Tuple[int, int, int]:
        """Channels, height and width of what is denoised."""
        return self.unet.config.in_channels, self.latent_size, self.latent_size

    @property
    def picture_size(self) -> int:
        """Width and height of what is denoised, or of the pictures that a VAE makes of it."""
        return self.latent_size

    def network(
        self,
        noisy: Float[Tensor, "N c h w"],
        timesteps: Int[Tensor, " N"],
        conditioning: Dict[str, Tensor],
    ) -> Float[Tensor, "N c h w"]:
        dtype = self.unet.dtype
        inputs = {name: value.to(dtype) for name, value in conditioning.items()}
        with no_autocast(noisy):
            output = self.unet(noisy.to(dtype), timesteps, **inputs).sample
        # Channels past those of the input are a learned variance, which nothing here reads.
        return output[:, : noisy.shape[1]].to(noisy.dtype)
