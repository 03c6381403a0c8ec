"""Drawing whole images from a prior, or from its adapter: what the guidance has in mind."""

import math
from dataclasses import replace
from typing import Any, Dict

import torch
from jaxtyping import Float
from torch import Tensor

from .priors.base import AbstractPrior, Cameras
from .search import Candidates, CandidateSearch

NUM_STEPS = 25


def turn(cameras: Cameras, num_views: int) -> Cameras:
    """Return V cameras around the z axis for each given one, the given one first."""
    angles = torch.arange(num_views).to(cameras.azimuth) * (360.0 / num_views)
    batch = len(cameras.azimuth)

    def repeat(x: Any) -> Any:
        return x if x is None else x.repeat_interleave(num_views, dim=0)

    azimuth = repeat(cameras.azimuth) + angles.repeat(batch)
    return replace(
        cameras,
        elevation=repeat(cameras.elevation),
        azimuth=(azimuth + 180.0) % 360.0 - 180.0,
        distance=repeat(cameras.distance),
        c2w=None if cameras.c2w is None else _turned(repeat(cameras.c2w), angles.repeat(batch)),
        mvp=None,
    )


def _turned(c2w: Float[Tensor, "N 4 4"], degrees: Float[Tensor, " N"]) -> Float[Tensor, "N 4 4"]:
    radians = degrees * (math.pi / 180.0)
    rotation = torch.eye(4).to(c2w).repeat(len(c2w), 1, 1)
    rotation[:, 0, 0] = rotation[:, 1, 1] = radians.cos().to(c2w)
    rotation[:, 1, 0], rotation[:, 0, 1] = radians.sin().to(c2w), -radians.sin().to(c2w)
    return rotation @ c2w


@torch.no_grad()
def draw_images(
    prior: AbstractPrior,
    prompt_utils: Any,
    batch: Dict[str, Any],
    chunk_size: int,
    scale: float,
    seed: int,
    adapted: bool = False,
) -> Float[Tensor, "B H W 3"]:
    """Denoise pure noise by `NUM_STEPS` deterministic DDIM steps and decode it.

    Args:
        prior: A multi-view prior draws a whole scene around each camera.
        prompt_utils: Output of the prompt processor.
        batch: Cameras, as the data module gives them.
        chunk_size: Images per network call.
        scale: Guidance scale, `eps_u + s (eps_c - eps_u)`.
        seed: Of the noise.
        adapted: Draw from the network with its adapter.
    """
    names = ("elevation", "azimuth", "camera_distances", "c2w", "mvp_mtx")
    cameras = Cameras(*(batch.get(name) for name in names))
    num_scenes = len(cameras.azimuth)
    if prior.num_views > 1:
        cameras = turn(cameras, prior.num_views)
    denoiser = prior.bind(prompt_utils, cameras, chunk_size)
    device = prior.alpha_bar.device
    shape = (1, len(cameras.azimuth), *prior.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    last = torch.full((num_scenes,), prior.num_train_timesteps - 1, device=device)
    images = CandidateSearch(NUM_STEPS, "uniform", scale).preview(
        Candidates(noise, noise, last), denoiser.adapted if adapted else denoiser
    )
    return images[0, :: prior.num_views].permute(0, 2, 3, 1)
