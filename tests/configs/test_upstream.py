"""What upstream's YAMLs and the official release's say, and ours do not or say otherwise.

Applied over our YAMLs these tables make the originals, but for the ids of models, in whose place
the runs have tiny random ones.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.configs.yamls import ROOT, logged, tiny
from threestudio.run import run

Settings = dict[str, Any]
ABSENT = object()
"""In place of a value: the key is not there."""

COMMON: Settings = {"system.loggers.wandb.project": "threestudio", "trainer.log_every_n_steps": 1}
SINGLE_VIEW: Settings = COMMON | {"system.loggers.wandb.name": "None"}
MAGIC3D: Settings = SINGLE_VIEW | {
    "data.batch_size": ABSENT,
    "system.background": ABSENT,
    "system.material.albedo_activation": ABSENT,
}
PROLIFICDREAMER: Settings = SINGLE_VIEW | {"trainer.precision": 32}
ADAPTER = {"system.guidance.pretrained_model_name_or_path_lora": "stabilityai/stable-diffusion-2-1"}
MVDREAM: Settings = COMMON | {
    "system.guidance.model_name": "sd-v2.1-base-4view",
    "system.guidance.n_view": ABSENT,
}
SHADING = {"system.material.albedo_activation": "sigmoid"}
OFFICIAL: Settings = MVDREAM | {
    "data_type": "reward-mvdream-random-multiview-camera-datamodule",
    "system_type": "reward-mvdream-system",
    "system.background_type": "reward-mvdream-neural-environment-map-background",
    "system.guidance_type": "reward-mvdream-multiview-diffusion-guidance",
    "system.guidance.reward_strategy": "min-max",
    "system.guidance.reward_model": "image-reward",
    "system.guidance.n_noises": 7,
    "system.guidance.reward_duration": 0.7,
    "system.guidance.num_of_training_steps": "${trainer.max_steps}",
}
UPSTREAM: dict[str, tuple[str, Settings]] = {
    "dreamfusion-sd": ("dreamfusion-sd", SINGLE_VIEW),
    "dreamfusion-if": ("dreamfusion-if", SINGLE_VIEW),
    "magic3d-coarse-sd": (
        "magic3d-coarse-sd",
        {
            **MAGIC3D,
            "data.fovy_range": ABSENT,
            "system.geometry.isosurface_coarse_to_fine": True,
            "system.geometry.isosurface_resolution": 128,
        },
    ),
    "magic3d-refine-sd": (
        "magic3d-refine-sd",
        MAGIC3D | {"system.geometry.fix_geometry": False},
    ),
    "prolificdreamer": (
        "prolificdreamer",
        PROLIFICDREAMER | ADAPTER | {"system.guidance.sqrt_anneal": False},
    ),
    "prolificdreamer-geometry": (
        "prolificdreamer-geometry",
        {
            **PROLIFICDREAMER,
            "system.guidance.weighting_strategy": "sds",
            "system.loss.lambda_z_variance": 0.0,
        },
    ),
    "prolificdreamer-texture": ("prolificdreamer-texture", PROLIFICDREAMER | ADAPTER),
    "mvdream-sd21-rescale0.5": ("mvdream-sd21", MVDREAM),
    "mvdream-sd21-rescale0.5-shading": ("mvdream-sd21-shading", MVDREAM | SHADING),
    "reward-mvdream-sd21-rescale0.5": ("mvdream-sd21", OFFICIAL),
    "reward-mvdream-sd21-rescale0.5-shading": ("mvdream-sd21-shading", OFFICIAL | SHADING),
}
"""By the `name` that the original has: our YAML, and what the original says otherwise."""


def original(name: str) -> DictConfig:
    ours, settings = UPSTREAM[name]
    config = OmegaConf.load(ROOT / f"configs/{ours}.yaml")
    for key, value in {"name": name, **settings}.items():
        if value is ABSENT:
            above, last = key.rsplit(".", 1)
            del OmegaConf.select(config, above)[last]
        else:
            OmegaConf.update(config, key, value)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("name", UPSTREAM)
def test_the_originals_are_right_and_train(
    name: str, world: dict[str, str], started: Callable[[str], list[str]], tmp_path: Path
):
    for hub_id in ("zai-org/ImageReward", "google-bert/bert-base-uncased"):  # the official reward
        (tmp_path / hub_id).parent.mkdir()
        (tmp_path / hub_id).symlink_to(world["image-reward"])
    path = tmp_path / f"{name}.yaml"
    OmegaConf.save(original(name), path)
    ours = UPSTREAM[name][0]
    short = tiny(ROOT / f"configs/{ours}.yaml", world, tmp_path / "out") + started(ours)
    short = [text for text in short if not text.startswith("trainer.precision")]
    made = run(str(path), [*short, "trainer.max_steps=2"])
    assert len(logged(made.trial_dir)) == 2
    if name.startswith("reward"):
        candidates = logged(made.trial_dir, "train/candidates")
        assert candidates == [7, 1], "the reward is used in 0.7 of two steps, rounded down"
