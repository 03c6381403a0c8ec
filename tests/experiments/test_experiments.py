"""The committed experiments and the pairs of configs that they compare."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import demo
from plan import load_experiment
from run import block_captions

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "custom/threestudio-reward-sds/experiments").glob("*.yaml"))
CONFIGS = ROOT / "custom/threestudio-reward-sds/configs"
PAIRS = {
    CONFIGS / "blocks-dreamfusion-sds.yaml": CONFIGS / "blocks-dreamfusion-reward-sds.yaml",
    CONFIGS / "blocks-prolificdreamer-vsd.yaml": CONFIGS / "blocks-prolificdreamer-reward-vsd.yaml",
    CONFIGS / "blocks-mvdream-vsd.yaml": CONFIGS / "blocks-mvdream-reward-vsd.yaml",
    CONFIGS / "blocks-mvdream-sds.yaml": CONFIGS / "blocks-mvdream-reward-sds.yaml",
    ROOT / "configs/dreamfusion-if.yaml": CONFIGS / "dreamfusion-if-reward-sds.yaml",
    ROOT / "configs/sd21-nerf.yaml": CONFIGS / "sd21-nerf-reward-sds.yaml",
}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_name_configs_and_methods_that_exist(path):
    experiment = load_experiment(path, block_captions, root=ROOT)
    assert experiment.table.parent == ROOT / "custom/threestudio-reward-sds/results"
    assert {trial.config for trial in experiment.trials} <= {
        config.relative_to(ROOT).as_posix() for config in CONFIGS.glob("*.yaml")
    }
    compared = {
        floor[key] for floor in experiment.floors for key in ("method", "minus") if key in floor
    }
    assert compared <= set(experiment.methods)


def test_the_held_out_experiment_is_the_one_that_was_asked_for():
    """40 captions x 3 seeds for four methods, 40 x 1 for the two controls: 560 runs."""
    path = next(path for path in EXPERIMENTS if path.stem == "blocks-3d-nerf")
    experiment = load_experiment(path, block_captions, root=ROOT)
    captions = {trial.caption for trial in experiment.trials}
    assert (len(captions), len(experiment.trials)) == (40, 560)
    for relation in ("on the left of", "on the right of", "on top of", "under"):
        assert sum(f" {relation} " in caption for caption in captions) == 10
    assert not captions & set(block_captions("dev", 10))


def test_the_demo_shows_a_caption_that_may_be_chosen():
    assert demo.CAPTION in block_captions("dev", 40)


@pytest.mark.parametrize("baseline", PAIRS, ids=lambda path: path.stem)
def test_a_pair_differs_in_the_guidance_block_only(baseline):
    """And the reward's block keeps everything that the baseline's says."""
    plain, reward = (
        OmegaConf.to_container(OmegaConf.load(path)) for path in (baseline, PAIRS[baseline])
    )
    blocks = [config["system"].pop("guidance") for config in (plain, reward)]
    for config in (plain, reward):
        config["system"].pop("guidance_type")
        config.pop("name")
    assert plain == reward
    assert blocks[0].items() <= blocks[1].items()
