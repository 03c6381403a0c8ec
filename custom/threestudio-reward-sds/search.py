"""Candidates of one step, and cheap previews of where each of them leads.

K noises at one timestep per scene: `noisy = alpha z + sigma noise`, all [K B c h w]. A preview
denoises `noisy` by a few deterministic DDIM steps and decodes the result. The first preview step
and the objective need the same network output at `(noisy, timesteps)`; `Candidates` keeps it.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .priors.base import CLEAN, Denoiser
from .priors.prediction import NoisePrediction
from .streams import Generators, draw

PREVIEW_SPACINGS = ("uniform", "official")


@dataclass
class Candidates:
    """K noises at one timestep per scene, and what the network said about them."""

    noise: Float[Tensor, "K B c h w"]
    """Standard normal draws."""
    noisy: Float[Tensor, "K B c h w"]
    """`z_t` of each candidate."""
    timesteps: Int[Tensor, " G"]
    """One timestep per scene."""
    kept: Dict[str, Any] = field(default_factory=dict, repr=False)
    """What an objective keeps from one of its gradients for the next."""
    _known: Optional[Bool[Tensor, "K B"]] = field(default=None, repr=False)
    _kept: Optional[NoisePrediction] = field(default=None, repr=False)

    def prediction(
        self, denoiser: Denoiser, mask: Optional[Bool[Tensor, "K B"]] = None
    ) -> NoisePrediction:
        """Return the prediction at `(noisy, timesteps)`, evaluating only what is not known yet.

        Args:
            denoiser: The prior with prompt and cameras fixed.
            mask: Images that are needed (default: all); the others may come back as zeros.
        """
        if mask is None:
            mask = torch.ones(self.noisy.shape[:2], dtype=torch.bool, device=self.noisy.device)
        if self._kept is None:
            self._kept, self._known = denoiser(self.noisy, self.timesteps, mask), mask
        missing = mask & ~self._known
        if missing.any():
            new = denoiser(self.noisy, self.timesteps, missing)
            self._kept = new.where(missing, self._kept)
            self._known = self._known | mask
        return self._kept


def uniform_times(timesteps: Int[Tensor, " G"], num_steps: int) -> Int[Tensor, "S G"]:
    """Return S + 1 times per scene: evenly spaced from t towards 0, the last one clean."""
    shares = torch.arange(num_steps, 0, -1, device=timesteps.device)[:, None]  # S .. 1
    times = (timesteps * shares + num_steps // 2) // num_steps  # rounded t * share / S
    return torch.cat([times, torch.full_like(timesteps, CLEAN)[None]])


def official_times(
    timesteps: Int[Tensor, " G"], num_points: int, num_train_timesteps: int
) -> Int[Tensor, "S G"]:
    """Return t, then the points of an even grid over 0..T-1 below it, then 0 as often as needed.

    The grid of the official release (15 points of 0..999). Unlike `uniform_times` it ends in the
    state at timestep 0, which keeps a trace of noise, and takes fewer steps for small t.
    """
    last = num_train_timesteps - 1
    grid = [last * i // max(num_points - 1, 1) for i in reversed(range(num_points))]
    columns: List[List[int]] = [
        [t, *(point for point in grid if point < t)] for t in timesteps.tolist()
    ]
    longest = max(len(column) for column in columns)
    padded = [column + column[-1:] * (longest - len(column)) for column in columns]
    return torch.tensor(padded, device=timesteps.device).T


def ddim_step(
    denoiser: Denoiser,
    noisy: Float[Tensor, "K B c h w"],
    noise_pred: Float[Tensor, "K B c h w"],
    timesteps: Int[Tensor, " G"],
    next_timesteps: Int[Tensor, " G"],
) -> Float[Tensor, "K B c h w"]:
    """Move from `timesteps` to `next_timesteps` without noise (DDIM, Eq. 12 with eta = 0).

    `x0 = (z_t - sigma eps) / alpha`, then `alpha' x0 + sigma' eps`.
    """
    alpha, sigma = denoiser.alpha_sigma(timesteps, noisy)
    next_alpha, next_sigma = denoiser.alpha_sigma(next_timesteps, noisy)
    x0_pred = (noisy - sigma * noise_pred) / alpha
    return next_alpha * x0_pred + next_sigma * noise_pred


@dataclass(frozen=True)
class CandidateSearch:
    """Proposes candidates and previews them; nothing here is differentiated."""

    preview_steps: int
    """S, denoising steps of a preview: 0 decodes `z_t` as it is, 1 is the x0 prediction."""
    preview_spacing: str
    """ "uniform": S steps evenly from t to clean; "official": grid of S points, see above."""
    preview_guidance_scale: float
    """Guidance scale of the previews, as `NoisePrediction.guided` takes it."""

    @torch.no_grad()
    def propose(
        self,
        latents: Float[Tensor, "B c h w"],
        timesteps: Int[Tensor, " G"],
        num_candidates: int,
        denoiser: Denoiser,
        generators: Generators,
    ) -> Candidates:
        """Draw K noises at one timestep per scene and add them to `latents`."""
        noise = draw(torch.randn, (num_candidates, *latents.shape), generators, 1).to(latents)
        alpha, sigma = denoiser.alpha_sigma(timesteps, latents)
        return Candidates(noise, alpha * latents + sigma * noise, timesteps)

    @torch.no_grad()
    def preview(self, candidates: Candidates, denoiser: Denoiser) -> Float[Tensor, "K B 3 H W"]:
        """Denoise each candidate by a few steps and decode it to images in [0, 1]."""
        return denoiser.decode(self.denoise(candidates, denoiser))

    @torch.no_grad()
    def denoise(self, candidates: Candidates, denoiser: Denoiser) -> Float[Tensor, "K B c h w"]:
        """Denoise each candidate by a few deterministic steps; the latents of `preview`."""
        state = candidates.noisy
        if self.preview_steps == 0:
            return state
        for index, (now, then) in enumerate(self._transitions(candidates.timesteps, denoiser)):
            moves = (now != then).repeat_interleave(denoiser.prior.num_views)
            mask = moves.expand(state.shape[:2])
            if index == 0:
                prediction = candidates.prediction(denoiser, mask)
            else:
                prediction = denoiser(state, now, mask)
            noise_pred = prediction.guided(self.preview_guidance_scale)
            moved = ddim_step(denoiser, state, noise_pred, now, then)
            state = torch.where(mask[..., None, None, None], moved, state)
        return state

    def _transitions(self, timesteps: Int[Tensor, " G"], denoiser: Denoiser) -> List[tuple]:
        if self.preview_spacing == "official":
            total = denoiser.prior.num_train_timesteps
            times = official_times(timesteps, self.preview_steps, total)
        else:
            times = uniform_times(timesteps, self.preview_steps)
        return list(zip(times[:-1], times[1:], strict=True))
