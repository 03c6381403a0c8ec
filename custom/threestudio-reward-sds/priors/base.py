"""The prior's interface and the maths of its parametrisation.

With `alpha = sqrt(alpha_bar_t)` and `sigma = sqrt(1 - alpha_bar_t)` a noisy latent is
`z_t = alpha z + sigma noise`. Whatever the network predicts, callers see a prediction of the noise.
Images come in scene-major order: B = G * V, the V views of a scene are neighbours and are denoised
jointly. Timesteps are per scene, [G]; `CLEAN` stands for "no noise at all".
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from threestudio.utils.base import BaseObject

from ..errors import UserError
from ..streams import Generators
from .denoiser import Denoiser

CLEAN = -1
"""The timestep past the last denoising step: alpha 1, sigma 0."""


@dataclass(frozen=True)
class Cameras:
    """Where the B images of a step were taken from."""

    elevation: Float[Tensor, " B"]
    """Degrees above the horizon."""
    azimuth: Float[Tensor, " B"]
    """Degrees; 0 is the front."""
    distance: Float[Tensor, " B"]
    """Distance of the camera from the origin."""
    c2w: Optional[Float[Tensor, "B 4 4"]] = None
    """Camera-to-world matrices (OpenGL axes, z up)."""
    mvp: Optional[Float[Tensor, "B 4 4"]] = None
    """Model-view-projection matrices."""


@dataclass(frozen=True)
class Conditioning:
    """What the network is told about the B images of a step, one block of rows per text."""

    inputs: Dict[str, Tensor]
    """Arguments of `network`, (2 + n) B rows: B with prompt, B without, then B for each of the n
    negative prompts of Perp-Neg."""
    negative_weights: Optional[Float[Tensor, "B n"]] = None
    """Weights of the negative prompts; None without Perp-Neg, when n is 0."""


class AbstractPrior(BaseObject, ABC):
    """A frozen diffusion model: encode, decode, condition, predict.

    Implementations fill the attributes below in `configure` and the four abstract methods; they
    keep their networks outside module registration, so nothing frozen reaches a checkpoint.
    """

    scale_from_text: ClassVar[bool] = False
    """True if published SDS scales for this prior mean `eps_c + s (eps_c - eps_u)`."""
    flat_defaults: ClassVar[Dict[str, Any]] = {}
    """Defaults of the SDS objective's keys, those of this prior's baseline (e.g. its scale)."""

    num_views: int
    """V, views of a scene that are denoised jointly."""
    alpha_bar: Float[Tensor, " T"]
    """Cumulative products of the noise schedule, float64."""
    latent_shape: Tuple[int, int, int]
    """Channels, height and width of a latent of the size that the model was trained on."""
    picture_size: int
    """Width and height of the pictures that the model was trained on."""
    prediction_type: str
    """What the network predicts: "epsilon" or "v_prediction"."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        return []

    @abstractmethod
    def encode(
        self,
        rgb: Float[Tensor, "B H W C"],
        generators: Optional[Generators],
        as_latents: bool = False,
    ) -> Float[Tensor, "B c h w"]:
        """Encode renders in [0, 1], with gradients.

        Args:
            rgb: The renders.
            generators: Of a draw of the posterior; None for its mean.
            as_latents: The renders are latents already.
        """

    def pixels(self, rgb: Float[Tensor, "B H W C"]) -> Float[Tensor, "B 3 S S"]:
        """Return renders in [0, 1] at the size that `decode` returns, with gradients."""
        raise UserError(
            f"`{type(self).__name__}` has no image loss. Set `system.guidance.use_img_loss: false`."
        )

    @abstractmethod
    def decode(self, latents: Float[Tensor, "N c h w"]) -> Float[Tensor, "N 3 H W"]:
        """Decode latents to images in [0, 1]."""

    @abstractmethod
    def conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        """Return what `network` is conditioned on, for all texts of all images."""

    @abstractmethod
    def network(
        self,
        noisy: Float[Tensor, "N c h w"],
        timesteps: Int[Tensor, " N"],
        conditioning: Dict[str, Tensor],
    ) -> Float[Tensor, "N c h w"]:
        """Evaluate the network on N images (whole scenes); all tensors have N rows."""

    @property
    def num_train_timesteps(self) -> int:
        """T, the length of the noise schedule."""
        return self.alpha_bar.shape[0]

    def adapt(self, rank: int) -> nn.Module:
        """Add a trainable low-rank adapter to the network and return what is to be registered.

        `network` stays the pretrained one; `adapted_network` is the one with the adapter.
        """
        raise self._no_adapter()

    def _no_adapter(self) -> UserError:
        return UserError(
            f"`{type(self).__name__}` has no adapter, which VSD needs. Use "
            '`system.guidance.prior_type: "stable-diffusion-prior"` or "mvdream-prior".'
        )

    def adapted_conditioning(self, prompt_utils: Any, cameras: Cameras) -> Conditioning:
        """Return what `adapted_network` is conditioned on: B rows with camera, B without."""
        raise self._no_adapter()

    def adapted_network(
        self,
        noisy: Float[Tensor, "N c h w"],
        timesteps: Int[Tensor, " N"],
        conditioning: Dict[str, Tensor],
    ) -> Float[Tensor, "N c h w"]:
        """Evaluate the network with its adapter, as `network` does without."""
        raise self._no_adapter()

    def bind(self, prompt_utils: Any, cameras: Cameras, chunk_size: int) -> Denoiser:
        """Fix prompt and cameras of one step; a network call gets at most `chunk_size` images."""

        def bind_others(prompts: Any) -> Denoiser:
            return self.bind(prompts, cameras, chunk_size)

        def bind_adapted() -> Denoiser:
            conditioning = self.adapted_conditioning(prompt_utils, cameras)
            return Denoiser(self, self.adapted_network, conditioning, chunk_size)

        conditioning = self.conditioning(prompt_utils, cameras)
        return Denoiser(self, self.network, conditioning, chunk_size, bind_adapted, bind_others)

    def alpha_sigma(
        self, timesteps: Int[Tensor, " G"], like: Tensor
    ) -> Tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
        """Return alpha and sigma of every image of the scenes, in the type of `like`."""
        alpha_bar = torch.cat(
            [self.alpha_bar, self.alpha_bar.new_ones(1)]
        )  # CLEAN = -1 is the last
        alpha_bar = alpha_bar.to(timesteps.device)[timesteps].repeat_interleave(self.num_views)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        return alpha.view(-1, 1, 1, 1).to(like), sigma.view(-1, 1, 1, 1).to(like)

    def to_noise(
        self,
        output: Float[Tensor, "*N c h w"],
        noisy: Float[Tensor, "*N c h w"],
        alpha: Tensor,
        sigma: Tensor,
    ) -> Float[Tensor, "*N c h w"]:
        """Convert a network output to a noise prediction: `eps`, or `alpha v + sigma z_t`."""
        if self.prediction_type == "epsilon":
            return output
        return alpha * output + sigma * noisy

    def target(
        self,
        latents: Float[Tensor, "*N c h w"],
        noise: Float[Tensor, "*N c h w"],
        alpha: Tensor,
        sigma: Tensor,
    ) -> Float[Tensor, "*N c h w"]:
        """Return what the network is trained to predict: `eps`, or `v = alpha eps - sigma z`."""
        if self.prediction_type == "epsilon":
            return noise
        return alpha * noise - sigma * latents
