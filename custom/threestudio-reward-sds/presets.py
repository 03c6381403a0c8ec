"""Named guidances: one composition, different defaults.

`reward-sds-guidance` is always registered. The baselines are the same composition with strategy
none and upstream's keys, the official release's guidance is it with that release's defaults; they
are only registered under the runtime of this repository, and only while their names are free,
because an upstream checkout brings its own.
"""

from typing import Any, ClassVar, Dict

import threestudio

from .guidance import CandidateGuidance, RewardVSDGuidance

NO_REWARD = {"reward_strategy_type": "none", "n_noises": 1}


class StableDiffusionGuidance(CandidateGuidance):
    """Baseline: SDS from Stable Diffusion, one view at a time, without a reward."""

    preset: ClassVar[Dict[str, Any]] = {
        "prior_type": "stable-diffusion-prior",
        "objective_type": "sds-objective",
        **NO_REWARD,
        "trainer_max_steps": 25000,
    }


class DeepFloydGuidance(CandidateGuidance):
    """Baseline: SDS from DeepFloyd IF, one view at a time in pixels, without a reward."""

    preset: ClassVar[Dict[str, Any]] = {
        "prior_type": "deep-floyd-prior",
        "objective_type": "sds-objective",
        **NO_REWARD,
    }


class StableDiffusionVSDGuidance(RewardVSDGuidance):
    """Baseline: VSD from Stable Diffusion 2.1, one view at a time, without a reward."""

    preset: ClassVar[Dict[str, Any]] = {
        **RewardVSDGuidance.preset,
        **NO_REWARD,
        "trainer_max_steps": 25000,
    }


class MVDreamGuidance(CandidateGuidance):
    """Baseline: SDS from MVDream, all views of a scene together, without a reward."""

    preset: ClassVar[Dict[str, Any]] = {
        "prior_type": "mvdream-prior",
        "objective_type": "sds-objective",
        **NO_REWARD,
    }


class OfficialMVDreamGuidance(CandidateGuidance):
    """RewardSDS from MVDream with the official release's defaults; a reward is used once the
    config names a strategy.

    The release previews at its `guidance_scale`, 50 in its YAMLs; here the two scales are settings
    of their own.
    """

    preset: ClassVar[Dict[str, Any]] = {
        "prior_type": "mvdream-prior",
        "objective_type": "sds-objective",
        "reward_strategy_type": "none",
        "reward_model_type": "image-reward",
        "n_noises": 6,
        "reward_duration": 0.5,
        "trainer_max_steps": 10000,
        "preview_steps": 15,
        "preview_spacing": "official",
        "preview_guidance_scale": 50.0,
    }


PRESETS: Dict[str, type] = {
    "stable-diffusion-guidance": StableDiffusionGuidance,
    "deep-floyd-guidance": DeepFloydGuidance,
    "stable-diffusion-vsd-guidance": StableDiffusionVSDGuidance,
    "mvdream-multiview-diffusion-guidance": MVDreamGuidance,
    "reward-mvdream-multiview-diffusion-guidance": OfficialMVDreamGuidance,
}
"""Names of the baselines and of the official release's guidance."""

OFFICIAL_PARTS = (
    "mvdream-system",
    "mvdream-random-multiview-camera-datamodule",
    "mvdream-neural-environment-map-background",
)
"""Parts of MVDream that the official release's YAMLs call `reward-<name>`."""


def register_presets() -> None:
    """Register all of these where our runtime is present and their names are free."""
    if not getattr(threestudio, "IS_REWARD_SDS_RUNTIME", False):
        return
    for name, guidance in PRESETS.items():
        threestudio.register(name, preset=True)(guidance)
    for part in OFFICIAL_PARTS:
        threestudio.register(f"reward-{part}", preset=True)(threestudio.find(part))
