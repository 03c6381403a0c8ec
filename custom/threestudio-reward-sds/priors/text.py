"""Text conditioning: what priors take from the prompt processor's output."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from .base import Cameras, Conditioning


def text_embeddings(
    prompt_utils: Any, cameras: Cameras, view_dependent: bool
) -> Float[Tensor, "M S D"]:
    """Return the text conditioning of B images, 2B rows: prompts, then negative prompts."""
    if getattr(prompt_utils, "use_perp_neg", False):
        raise ValueError(
            "`use_perp_neg` is not supported by this prior. Set "
            "`system.prompt_processor.use_perp_neg: false`."
        )
    return prompt_utils.get_text_embeddings(
        cameras.elevation, cameras.azimuth, cameras.distance, view_dependent
    )


def plain_text(prompt_utils: Any, cameras: Cameras) -> Float[Tensor, "B S D"]:
    """Return the embedding of the prompt without its view, once for each of B images."""
    text = prompt_utils.get_text_embeddings(
        cameras.elevation, cameras.azimuth, cameras.distance, False
    )
    return text[: len(cameras.azimuth)]


def single_view_text(prompt_utils: Any, cameras: Cameras, view_dependent: bool) -> Conditioning:
    """Return the text conditioning of B single views, with Perp-Neg where the prompts ask for it.

    The prompt processor returns the n negative prompts of an image next to each other; here all
    first ones come before all second ones, as the blocks of `Conditioning` do.
    """
    if not getattr(prompt_utils, "use_perp_neg", False):
        text = text_embeddings(prompt_utils, cameras, view_dependent)
        return Conditioning({"encoder_hidden_states": text})
    if not view_dependent:
        raise UserError(
            "Perp-Neg needs the prompts of the views. Set "
            "`system.guidance.view_dependent_prompting: true`, or "
            "`system.prompt_processor.use_perp_neg: false`."
        )
    text, weights = prompt_utils.get_text_embeddings_perp_neg(
        cameras.elevation, cameras.azimuth, cameras.distance, view_dependent
    )
    batch = weights.shape[0]
    negative = text[2 * batch :].unflatten(0, weights.shape).transpose(0, 1).flatten(0, 1)
    return Conditioning(
        {"encoder_hidden_states": torch.cat([text[: 2 * batch], negative])}, weights
    )
