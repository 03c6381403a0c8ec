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
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threestudio.utils.base import BaseObject

from .prediction import NoisePrediction

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
    fovy: Optional[Float[Tensor, " B"]] = None
    """Vertical field of view, as the data module gives it."""


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
    """Defaults of other components' keys that belong to this prior's baseline (e.g. its scale)."""

    num_views: int
    """V, views of a scene that are denoised jointly."""
    alpha_bar: Float[Tensor, " T"]
    """Cumulative products of the noise schedule, float64."""
    prediction_type: str
    """What the network predicts: "epsilon" or "v_prediction"."""

    @staticmethod
    def check(cfg: Any) -> List[str]:
        """Say what is wrong with the settings, without loading anything."""
        return []

    @abstractmethod
    def encode(
        self, rgb: Float[Tensor, "B H W C"], generator: torch.Generator, as_latents: bool = False
    ) -> Float[Tensor, "B c h w"]:
        """Encode renders in [0, 1], with gradients; `as_latents`: they are latents already."""

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

    def bind(self, prompt_utils: Any, cameras: Cameras, chunk_size: int) -> "Denoiser":
        """Fix prompt and cameras of one step; a network call gets at most `chunk_size` images."""
        return Denoiser(self, self.conditioning(prompt_utils, cameras), chunk_size)

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


class Denoiser:
    """A prior with prompt and cameras fixed: `(z_t, t) -> NoisePrediction`, in chunks.

    Candidates, views and texts (the two halves of classifier-free guidance, and Perp-Neg's negative
    prompts) form one batch, which is cut into chunks of at most `chunk_size` images (never less
    than one scene of V views); results do not depend on the cut.
    """

    def __init__(self, prior: AbstractPrior, conditioning: Conditioning, chunk_size: int):
        self.prior = prior
        self.conditioning = conditioning.inputs
        weights = conditioning.negative_weights
        self.negative_weights = () if weights is None else weights.unbind(dim=1)  # n of [B]
        self.num_texts = 2 + len(self.negative_weights)
        self.chunk_size = max(chunk_size // prior.num_views, 1) * prior.num_views
        self.images_evaluated = 0
        """Images that went through the network so far; each text of an image counts."""

    def __call__(
        self,
        noisy: Float[Tensor, "K B c h w"],
        timesteps: Int[Tensor, " G"],
        mask: Optional[Bool[Tensor, "K B"]] = None,
    ) -> NoisePrediction:
        """Predict the noise in `noisy`; only where `mask` is true, zeros elsewhere."""
        num_candidates, batch = noisy.shape[:2]
        if mask is None:
            mask = torch.ones(num_candidates, batch, dtype=torch.bool, device=noisy.device)
        rows = mask.flatten().nonzero()[:, 0]  # indices into K * B
        predicted = self._predict_rows(noisy, timesteps, rows)  # [texts * rows, c, h, w]
        cond, uncond, *negatives = (
            torch.zeros_like(noisy.flatten(0, 1)).index_copy(0, rows, part).view_as(noisy)
            for part in predicted.unflatten(0, (self.num_texts, len(rows)))
        )
        weights = (weight.view(-1, 1, 1, 1).to(noisy) for weight in self.negative_weights)
        return NoisePrediction(cond, uncond, tuple(negatives), tuple(weights))

    def _predict_rows(
        self,
        noisy: Float[Tensor, "K B c h w"],
        timesteps: Int[Tensor, " G"],
        rows: Int[Tensor, " N"],
    ) -> Float[Tensor, "M c h w"]:
        """Predict for the N given images, all of them with one text, then with the next."""
        batch = noisy.shape[1]
        text = torch.arange(self.num_texts, device=rows.device).repeat_interleave(len(rows))
        rows = rows.repeat(self.num_texts)
        view = rows % batch
        condition = text * batch + view
        inputs = noisy.flatten(0, 1)[rows]
        times = timesteps.repeat_interleave(self.prior.num_views)[view]
        outputs = [torch.zeros_like(inputs[:0])]
        for start in range(0, len(rows), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            given = {name: value[condition[part]] for name, value in self.conditioning.items()}
            outputs.append(self.prior.network(inputs[part], times[part], given))
        self.images_evaluated += len(rows)
        alpha, sigma = self.alpha_sigma(timesteps, noisy)
        return self.prior.to_noise(torch.cat(outputs), inputs, alpha[view], sigma[view])

    def guided_scale(self, published: float) -> float:
        """Translate a published SDS scale to the one that `NoisePrediction.guided` takes.

        Perp-Neg's scales count from the negative prompt, whatever those of the prior do.
        """
        from_text = self.prior.scale_from_text and not self.negative_weights
        return published + (1.0 if from_text else 0.0)

    def alpha_sigma(self, timesteps: Int[Tensor, " G"], like: Tensor) -> Tuple[Tensor, Tensor]:
        """Return the noise schedule at `timesteps`, [B 1 1 1] each."""
        return self.prior.alpha_sigma(timesteps, like)

    def decode(self, latents: Float[Tensor, "K B c h w"]) -> Float[Tensor, "K B 3 H W"]:
        """Decode the latents of all candidates to images in [0, 1], in chunks."""
        chunks = latents.flatten(0, 1).split(self.chunk_size)
        images = torch.cat([self.prior.decode(chunk) for chunk in chunks])
        return images.unflatten(0, latents.shape[:2])
