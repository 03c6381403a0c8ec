"""Named guidances: one composition, different defaults.

`reward-sds-guidance` is always registered. The baselines are the same composition with strategy
none and upstream's keys, the official release's guidance is it with that release's defaults; they
are only registered under the runtime of this repository, and only while their names are free,
because an upstream checkout brings its own.
"""

from typing import Any, Dict

import threestudio

from .guidance import CandidateGuidance, RewardVSDGuidance

BASELINES: Dict[str, Dict[str, Any]] = {
    "stable-diffusion-guidance": {
        "prior_type": "stable-diffusion-prior",
        "objective_type": "sds-objective",
        "reward_strategy_type": "none",
        "n_noises": 1,
        "trainer_max_steps": 25000,
    },
    "deep-floyd-guidance": {
        "prior_type": "deep-floyd-prior",
        "objective_type": "sds-objective",
        "reward_strategy_type": "none",
        "n_noises": 1,
    },
    "stable-diffusion-vsd-guidance": {
        **RewardVSDGuidance.preset,
        "reward_strategy_type": "none",
        "n_noises": 1,
        "trainer_max_steps": 25000,
    },
    "mvdream-multiview-diffusion-guidance": {
        "prior_type": "mvdream-prior",
        "objective_type": "sds-objective",
        "reward_strategy_type": "none",
        "n_noises": 1,
    },
}
"""Baseline name to the defaults that make it."""

OFFICIAL: Dict[str, Dict[str, Any]] = {
    "reward-mvdream-multiview-diffusion-guidance": {
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
    },
}
"""The official release's guidance to its defaults. It previews at its `guidance_scale`, 50 in its
YAMLs; here the two scales are settings of their own."""

OFFICIAL_PARTS = (
    "mvdream-system",
    "mvdream-random-multiview-camera-datamodule",
    "mvdream-neural-environment-map-background",
)
"""Parts of MVDream that the official release's YAMLs call `reward-<name>`."""


def preset_guidance(name: str, preset: Dict[str, Any]) -> type:
    """Return the guidance class with other defaults, called `name`."""
    text = f"`{name}`: the guidance with the defaults {preset}."
    attributes = {"preset": preset, "__doc__": text, "__module__": __name__}
    vsd = preset["objective_type"] == "vsd-objective"
    return type(name, (RewardVSDGuidance if vsd else CandidateGuidance,), attributes)


def register_presets() -> None:
    """Register all of these where our runtime is present and their names are free."""
    if not getattr(threestudio, "IS_REWARD_SDS_RUNTIME", False):
        return
    for name, preset in {**BASELINES, **OFFICIAL}.items():
        threestudio.register(name, preset=True)(preset_guidance(name, preset))
    for part in OFFICIAL_PARTS:
        threestudio.register(f"reward-{part}", preset=True)(threestudio.find(part))
