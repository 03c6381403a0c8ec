"""Test doubles: priors with known answers, rewards with known scores, prompts. No weights."""

import hashlib
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Dict, List, Optional

import torch

import threestudio
from threestudio.extensions import load_extensions
from threestudio.utils.base import BaseObject

load_extensions(str(Path(__file__).resolve().parents[2] / "custom"))


def extension(module: str) -> Any:
    """Import a module of the extension, whose folder name has hyphens."""
    return importlib.import_module(f"threestudio-reward-sds.{module}")


priors_base = extension("priors.base")
rewards_base = extension("rewards.base")
streams = extension("streams")


def scaled_linear_alpha_bar(num_steps: int = 1000) -> torch.Tensor:
    """Return Stable Diffusion's noise schedule in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, num_steps, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, dim=0)


@dataclass
class Direction:
    """A view direction of the prompt processor."""

    name: str
    condition: Any


class Prompts:
    """Prompt processor output: view-dependent prompts, one random embedding per prompt."""

    use_perp_neg = False

    def __init__(self, prompt: str = "a red cube", tokens: int = 4, width: int = 8):
        self.prompt = prompt
        self.directions = [
            Direction("side", lambda e, a, d: torch.ones_like(a, dtype=torch.bool)),
            Direction("front", lambda e, a, d: (a > -45) & (a < 45)),
            Direction("back", lambda e, a, d: (a > 135) | (a < -135)),
            Direction("overhead", lambda e, a, d: e > 60),
        ]
        self.direction2idx = {d.name: i for i, d in enumerate(self.directions)}
        self.prompts_vd = [f"{prompt}, {d.name} view" for d in self.directions]
        generator = torch.Generator().manual_seed(1)
        self.table = torch.randn(5, tokens, width, generator=generator)

    def get_text_embeddings(self, elevation, azimuth, distances, view_dependent=True):
        index = torch.full_like(azimuth, 4, dtype=torch.long)
        if view_dependent:
            for d in self.directions:
                index[d.condition(elevation, azimuth, distances)] = self.direction2idx[d.name]
        cond = self.table.to(index.device)[index]
        return torch.cat([cond, -cond])


def camera_batch(batch: int, dtype: torch.dtype = torch.float32) -> Dict[str, torch.Tensor]:
    """Return the camera entries of a data batch: B views around the object."""
    azimuth = torch.linspace(-180, 180, batch + 1, dtype=dtype)[:-1]
    c2w = torch.eye(4, dtype=dtype).repeat(batch, 1, 1)
    c2w[:, :3, 3] = (
        torch.stack([azimuth.deg2rad().cos(), azimuth.deg2rad().sin(), azimuth * 0], 1) * 2.8
    )
    return {
        "elevation": torch.full_like(azimuth, 15.0),
        "azimuth": azimuth,
        "camera_distances": torch.full_like(azimuth, 2.8),
        "c2w": c2w,
    }


class DoublePrior(priors_base.AbstractPrior):
    """Base of the doubles: latents are the images themselves ([0, 1] RGB), calls are recorded."""

    @dataclass
    class Config(BaseObject.Config):
        n_view: int = 1
        noise_scale: float = 0.0
        """Posterior noise of `encode`, to see that its stream is used."""
        prediction_type: str = "epsilon"
        """What `answer` is taken for."""

    cfg: Config

    def configure(self) -> None:
        self.num_views = self.cfg.n_view
        self.alpha_bar = scaled_linear_alpha_bar()
        self.prediction_type = self.cfg.prediction_type
        self.calls: List[int] = []
        self.timesteps: List[torch.Tensor] = []
        self.with_grad: List[bool] = []
        self.decoded = 0

    def encode(self, rgb, generators, as_latents=False):
        latents = rgb.permute(0, 3, 1, 2)
        if generators is None:
            return latents
        drawn = streams.draw(torch.randn, latents.shape, generators, 0).to(latents)
        return latents + self.cfg.noise_scale * drawn

    def pixels(self, rgb):
        return rgb.permute(0, 3, 1, 2)

    def decode(self, latents):
        self.decoded += len(latents)
        return latents[:, :3].clamp(0, 1)

    def conditioning(self, prompt_utils, cameras):
        batch = cameras.azimuth.shape[0]
        half = torch.cat([torch.ones(batch), torch.zeros(batch)])
        return priors_base.Conditioning({"half": half})

    def network(self, noisy, timesteps, conditioning):
        self.calls.append(len(noisy))
        self.timesteps.append(timesteps)
        self.with_grad.append(torch.is_grad_enabled())
        alpha, sigma = (x.view(-1, 1, 1, 1).to(noisy) for x in self._alpha_sigma(timesteps))
        return self.answer(noisy, alpha, sigma, conditioning["half"].view(-1, 1, 1, 1).to(noisy))

    def _alpha_sigma(self, timesteps):
        alpha_bar = self.alpha_bar[timesteps]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@threestudio.register("gaussian-prior")
class GaussianPrior(DoublePrior):
    """The exact prediction for latents `z ~ N(mu, s^2 I)`; both halves of guidance agree."""

    mu, s = 0.5, 0.3

    def answer(self, noisy, alpha, sigma, half):
        return sigma * (noisy - alpha * self.mu) / (alpha**2 * self.s**2 + sigma**2)


@threestudio.register("wavy-prior")
class WavyPrior(DoublePrior):
    """A smooth nonlinear network: halves differ, and the V views of a scene mix."""

    def answer(self, noisy, alpha, sigma, half):
        scenes = noisy.unflatten(0, (-1, self.num_views))
        mixed = (0.7 * scenes + 0.3 * scenes.mean(dim=1, keepdim=True)).flatten(0, 1)
        return torch.sin(1.3 * mixed + half) * sigma + 0.2 * half * alpha


class Words:
    """Prompt processor output whose embedding is one number, `spoken(prompt)`; one or G prompts."""

    use_perp_neg = False

    def __init__(self, prompts: List[str]):
        self.prompts, self.prompt = prompts, prompts[0]

    def get_text_embeddings(self, elevation, azimuth, distances, view_dependent=True):
        share = len(azimuth) // len(self.prompts)
        numbers = torch.tensor([spoken(prompt) for prompt in self.prompts], dtype=torch.float64)
        rows = numbers.repeat_interleave(share)[:, None, None]
        return torch.cat([rows, torch.zeros_like(rows)])


def spoken(prompt: str) -> float:
    """Return the number that stands for a prompt, in [0, 2)."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") / 2**31


@threestudio.register("double-prompt-processor")
class DoublePromptProcessor(BaseObject):
    """Encodes prompts as `Words`, and counts what it was asked to encode."""

    encoded: ClassVar[List[str]] = []

    @dataclass
    class Config(BaseObject.Config):
        prompt: str = ""
        prompts: Optional[List[str]] = None

    cfg: Config

    def __call__(self) -> Words:
        texts = list(self.cfg.prompts or [self.cfg.prompt])
        self.encoded.extend(texts)
        return Words(texts)


@threestudio.register("listening-prior")
class ListeningPrior(WavyPrior):
    """The same, and what it answers depends on the prompt."""

    picture_size = 4

    def conditioning(self, prompt_utils, cameras):
        text = prompt_utils.get_text_embeddings(
            cameras.elevation, cameras.azimuth, cameras.distance, False
        )
        return priors_base.Conditioning({"half": text.flatten()})


class Shift(torch.nn.Module):
    """The adapter of `adapted-wavy-prior`: two numbers."""

    def __init__(self):
        super().__init__()
        self.numbers = torch.nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))


@threestudio.register("adapted-wavy-prior")
class AdaptedWavyPrior(WavyPrior):
    """The same with an adapter that sees the azimuth, and has two numbers to learn."""

    def adapt(self, rank):
        self.shift = Shift()
        return self.shift

    def adapted_conditioning(self, prompt_utils, cameras):
        azimuth = cameras.azimuth / 180
        return priors_base.Conditioning({"half": torch.cat([azimuth, torch.zeros_like(azimuth)])})

    def adapted_network(self, noisy, timesteps, conditioning):
        first, second = self.shift.numbers
        seen = conditioning["half"].view(-1, 1, 1, 1).to(noisy)
        return self.network(noisy, timesteps, conditioning) * (1 + first) + second * seen


@threestudio.register("wavy-text-scale-prior")
class WavyTextScalePrior(WavyPrior):
    """The same with Stable Diffusion's convention of published scales."""

    scale_from_text = True


@threestudio.register("nan-prior")
class NaNPrior(DoublePrior):
    """A prior that overflows."""

    def answer(self, noisy, alpha, sigma, half):
        return noisy * float("nan")


@threestudio.register("reward-model-brightness")
class BrightnessReward(rewards_base.AbstractRewardModel):
    """Scores the mean brightness, and remembers the prompts it was asked with."""

    def configure(self) -> None:
        self.prompts: List[str] = []

    def __call__(self, images, prompts):
        self.prompts += prompts
        return images.mean(dim=(1, 2, 3))


@threestudio.register("reward-model-fixed")
class FixedReward(rewards_base.AbstractRewardModel):
    """Returns the given scores, whatever the images."""

    @dataclass
    class Config(BaseObject.Config):
        scores: Optional[Any] = None

    cfg: Config

    def __call__(self, images, prompts):
        return torch.tensor(list(self.cfg.scores), dtype=torch.float64)


def guidance(prior: str = "wavy-prior", name: str = "reward-sds-guidance", **settings: Any) -> Any:
    """Build a guidance on a double; brightness is the reward unless `settings` says otherwise."""
    defaults = {"reward_model_type": "brightness", "n_noises": 4, "preview_steps": 1}
    return threestudio.find(name)({"prior_type": prior, **defaults, **settings})


def render(
    batch: int, size: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Return B renders in [0, 1] with a gradient, [B size size 3]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, size, size, 3, generator=generator, dtype=dtype).requires_grad_(True)
