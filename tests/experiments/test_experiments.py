"""The committed experiments and the pairs of configs that they compare."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

import demo
from floors import floor_methods
from picture_trial import ARROW, batch_overrides
from plan import load_experiment
from run import block_captions
from threestudio.run import check_config
from threestudio.utils.config import merge_configs

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = sorted((ROOT / "custom/threestudio-reward-sds/experiments").glob("*.yaml"))
CONFIGS = ROOT / "custom/threestudio-reward-sds/configs"
FOLDERS = (CONFIGS, ROOT / "custom/threestudio-3dgs/configs", ROOT / "configs")
"""Where baselines are."""
REWARDS = sorted(CONFIGS.glob("*-reward-*.yaml"))


def plain(path):
    """Return a YAML as plain data, not resolved."""
    return OmegaConf.to_container(OmegaConf.load(path))


def baseline_of(reward):
    """Find `<name>-<kind>.yaml`, or else `<name>.yaml`, of `<name>-reward-<kind>[-<more>].yaml`."""
    name, _, kind = reward.stem.partition("-reward-")
    names = (f"{name}-{kind.split('-')[0]}", name)
    paths = [folder / f"{n}.yaml" for n in names for folder in FOLDERS]
    return next(path for path in paths if path.exists())


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_name_configs_and_methods_that_exist(path):
    experiment = load_experiment(path, block_captions, root=ROOT)
    assert experiment.table.parent == ROOT / "custom/threestudio-reward-sds/results"
    assert {trial.config for trial in experiment.trials} <= {
        config.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for config in folder.glob("*.yaml")
    }
    compared = {method for floor in experiment.floors for method in floor_methods(floor)}
    assert compared <= set(experiment.methods)


@pytest.mark.parametrize(
    "path", [path for path in EXPERIMENTS if "2d" in path.stem], ids=lambda path: path.stem
)
def test_every_method_of_pictures_is_a_config_without_a_fault(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    Image.new("RGB", (64, 64)).save(source := tmp_path / "source.png")
    experiment = load_experiment(path, block_captions)
    compared = {method for group in experiment.groups for method in group.methods}
    assert compared == set(experiment.methods)
    for batch in {batch[0].method: batch for batch in experiment.batches}.values():
        sources = [source if ARROW in trial.caption else None for trial in batch]
        overrides = batch_overrides(batch, sources, tmp_path)
        check_config(merge_configs(batch[0].config, cli_args=list(overrides), n_gpus=1))


def test_the_held_out_experiment_is_the_one_that_was_asked_for():
    """40 captions x 3 seeds for four methods, 40 x 1 for the two controls: 560 runs."""
    path = next(path for path in EXPERIMENTS if path.stem == "blocks-3d-nerf")
    experiment = load_experiment(path, block_captions, root=ROOT)
    captions = {trial.caption for trial in experiment.trials}
    assert (len(captions), len(experiment.trials)) == (40, 560)
    for relation in ("on the left of", "on the right of", "on top of", "under"):
        assert sum(f" {relation} " in caption for caption in captions) == 10
    assert not captions & set(block_captions("dev", 10))


def test_the_held_out_experiment_on_gaussians_is_the_one_that_was_asked_for():
    """40 captions x 2 seeds for RewardSDS and its baseline, 20 x 1 for RewardVSD and its."""
    path = next(path for path in EXPERIMENTS if path.stem == "blocks-3d-gaussians")
    experiment = load_experiment(path, block_captions, root=ROOT)
    runs = {m: [t for t in experiment.trials if t.method == m] for m in experiment.methods}
    assert {m: len(trials) for m, trials in runs.items()} == {
        "sds": 80,
        "reward-sds": 80,
        "vsd": 20,
        "reward-vsd": 20,
    }
    assert {t.caption for t in runs["sds"]} == set(block_captions("held-out", 10))
    assert {t.caption for t in runs["vsd"]} == set(block_captions("held-out", 5))
    assert {t.seed for t in runs["vsd"]} == {0}
    assert experiment.floors[0] == {
        "measure": "relation",
        "method": "reward-sds",
        "minus": "sds",
        "at_least": 40,
        "lower_bound_at_least": 25,
    }


def test_the_demo_shows_a_caption_that_may_be_chosen():
    assert demo.CAPTION in block_captions("dev", 40)


@pytest.mark.parametrize("path", REWARDS, ids=lambda path: path.stem)
def test_a_pair_differs_in_the_guidance_block_only(path):
    """And the reward's block keeps everything that the baseline's says."""
    baseline, reward = plain(baseline_of(path)), plain(path)
    blocks = [config["system"].pop("guidance") for config in (baseline, reward)]
    types = [config["system"].pop("guidance_type") for config in (baseline, reward)]
    for config in (baseline, reward):
        assert config.pop("name") in (path.stem, baseline_of(path).stem)
    assert baseline == reward
    assert blocks[0].items() <= blocks[1].items()
    assert types[1] == f"reward-{'vsd' if 'vsd' in types[0] else 'sds'}-guidance"


def test_every_published_kind_of_run_has_a_pair():
    stems = {path.stem: baseline_of(path).stem for path in REWARDS}
    assert stems == {
        "blocks-dreamfusion-reward-sds": "blocks-dreamfusion-sds",
        "blocks-image-reward-bridge": "blocks-image-bridge",
        "blocks-image-reward-dds": "blocks-image-dds",
        "blocks-image-reward-sds": "blocks-image-sds",
        "blocks-image-reward-vsd": "blocks-image-vsd",
        "blocks-gaussians-reward-sds": "blocks-gaussians-sds",
        "blocks-gaussians-reward-vsd": "blocks-gaussians-vsd",
        "blocks-mvdream-reward-sds": "blocks-mvdream-sds",
        "blocks-mvdream-reward-vsd": "blocks-mvdream-vsd",
        "blocks-prolificdreamer-reward-vsd": "blocks-prolificdreamer-vsd",
        "dreamfusion-if-reward-sds": "dreamfusion-if",
        "dreamgaussian-mvdream-reward-sds": "dreamgaussian-mvdream",
        "dreamgaussian-sd21-reward-sds": "dreamgaussian-sd21",
        "dreamgaussian-sd21-reward-vsd": "dreamgaussian-sd21-vsd",
        "dreamfusion-sd-reward-sds": "dreamfusion-sd",
        "image-sd21-reward-bridge": "image-sd21-bridge",
        "image-sd21-reward-dds": "image-sd21-dds",
        "image-sd21-reward-sds": "image-sd21-sds",
        "image-sd21-reward-vsd": "image-sd21-vsd",
        "mvdream-sd21-gaussians-reward-sds": "mvdream-sd21-gaussians",
        "mvdream-sd21-reward-sds": "mvdream-sd21",
        "mvdream-sd21-reward-sds-aesthetic": "mvdream-sd21",
        "mvdream-sd21-reward-vsd": "mvdream-sd21-vsd",
        "mvdream-sd21-shading-reward-sds": "mvdream-sd21-shading",
        "prolificdreamer-geometry-reward-sds": "prolificdreamer-geometry",
        "prolificdreamer-reward-vsd": "prolificdreamer",
        "prolificdreamer-texture-reward-vsd": "prolificdreamer-texture",
        "sd21-gaussians-reward-sds": "sd21-gaussians",
        "sd21-gaussians-reward-vsd": "sd21-gaussians-vsd",
        "sd21-nerf-reward-sds": "sd21-nerf",
        "sd21-nerf-reward-vsd": "sd21-nerf-vsd",
    }


def test_two_configs_show_the_effect_of_the_reward_and_differ_in_nothing_else():
    configs = [plain(CONFIGS / f"mvdream-sd21-reward-sds{end}.yaml") for end in ("", "-aesthetic")]
    rewards = [
        [config["system"]["guidance"].pop(key) for key in ("reward_model_type", "reward_model")]
        for config in configs
    ]
    names = [config.pop("name") for config in configs]
    assert configs[0] == configs[1] and names[0] != names[1]
    assert [name for name, _ in rewards] == ["image-reward", "aesthetic"]
