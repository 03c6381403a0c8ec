"""A prior with prompt and cameras of one step fixed, evaluated in chunks."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence, Tuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .prediction import NoisePrediction

if TYPE_CHECKING:
    from .base import AbstractPrior, Conditioning


class Denoiser:
    """A prior with prompt and cameras fixed: `(z_t, t) -> NoisePrediction`, in chunks.

    Candidates, views and texts (the two halves of classifier-free guidance, and Perp-Neg's negative
    prompts) form one batch, which is cut into chunks of at most `chunk_size` images (never less
    than one scene of V views); results do not depend on the cut.
    """

    def __init__(
        self,
        prior: "AbstractPrior",
        network: Callable[..., Tensor],
        conditioning: "Conditioning",
        chunk_size: int,
        bind_adapted: Optional[Callable[[], "Denoiser"]] = None,
        bind_others: Optional[Callable[[Any], "Denoiser"]] = None,
    ):
        self.prior = prior
        self.network = network
        self.conditioning = conditioning.inputs
        weights = conditioning.negative_weights
        self.negative_weights = () if weights is None else weights.unbind(dim=1)  # n of [B]
        self.num_texts = 2 + len(self.negative_weights)
        self.chunk_size = max(chunk_size // prior.num_views, 1) * prior.num_views
        self._bind_adapted, self._bind_others = bind_adapted, bind_others
        self._relatives: List[Denoiser] = []
        self._images_evaluated = 0

    @cached_property
    def adapted(self) -> "Denoiser":
        """The same step of the network with its adapter; its texts are the camera and none."""
        return self._related(self._bind_adapted())

    def given(self, prompt_utils: Any) -> "Denoiser":
        """Return the same step with other prompts."""
        return self._related(self._bind_others(prompt_utils))

    def _related(self, denoiser: "Denoiser") -> "Denoiser":
        self._relatives.append(denoiser)
        return denoiser

    @property
    def images_evaluated(self) -> int:
        """Images that went through the network so far, for this denoiser and those made from it;
        each text of an image counts."""
        return self._images_evaluated + sum(one.images_evaluated for one in self._relatives)

    def __call__(
        self,
        noisy: Float[Tensor, "K B c h w"],
        timesteps: Int[Tensor, " G"],
        mask: Optional[Bool[Tensor, "K B"]] = None,
    ) -> NoisePrediction:
        """Predict the noise in `noisy`; only where `mask` is true, zeros elsewhere."""
        cond, uncond, *negatives = self.noise(noisy, timesteps, mask, range(self.num_texts))
        weights = (weight.view(-1, 1, 1, 1).to(noisy) for weight in self.negative_weights)
        return NoisePrediction(cond, uncond, tuple(negatives), tuple(weights))

    def noise(
        self,
        noisy: Float[Tensor, "K B c h w"],
        timesteps: Int[Tensor, " G"],
        mask: Optional[Bool[Tensor, "K B"]],
        texts: Sequence[int],
    ) -> List[Float[Tensor, "K B c h w"]]:
        """Predict the noise given each of some texts (blocks of the conditioning)."""
        num_candidates, batch = noisy.shape[:2]
        if mask is None:
            mask = torch.ones(num_candidates, batch, dtype=torch.bool, device=noisy.device)
        rows = mask.flatten().nonzero()[:, 0]  # indices into K * B
        text = torch.tensor(texts, device=rows.device).repeat_interleave(len(rows))
        view = (rows % batch).repeat(len(texts))
        inputs = noisy.flatten(0, 1)[rows.repeat(len(texts))]  # all with one text, then the next
        times = timesteps.repeat_interleave(self.prior.num_views)[view]
        outputs = self._evaluate(inputs, times, text * batch + view)
        alpha, sigma = self.alpha_sigma(timesteps, noisy)
        predicted = self.prior.to_noise(outputs, inputs, alpha[view], sigma[view])
        return [
            torch.zeros_like(noisy.flatten(0, 1)).index_copy(0, rows, part).view_as(noisy)
            for part in predicted.unflatten(0, (len(texts), len(rows)))
        ]

    def output(
        self,
        noisy: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, " G"],
        texts: Int[Tensor, " B"],
    ) -> Float[Tensor, "B c h w"]:
        """Return the network's own output for each image, given the one of its texts that `texts`
        names."""
        times = timesteps.repeat_interleave(self.prior.num_views)
        image = torch.arange(len(noisy), device=noisy.device)
        return self._evaluate(noisy, times, texts * len(noisy) + image)

    def _evaluate(
        self,
        inputs: Float[Tensor, "M c h w"],
        times: Int[Tensor, " M"],
        condition: Int[Tensor, " M"],
    ) -> Float[Tensor, "M c h w"]:
        """Call the network in chunks; `condition` says which rows of the conditioning to use."""
        outputs = [torch.zeros_like(inputs[:0])]
        for start in range(0, len(inputs), self.chunk_size):
            part = slice(start, start + self.chunk_size)
            given = {name: value[condition[part]] for name, value in self.conditioning.items()}
            outputs.append(self.network(inputs[part], times[part], given))
        self._images_evaluated += len(inputs)
        return torch.cat(outputs)

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
