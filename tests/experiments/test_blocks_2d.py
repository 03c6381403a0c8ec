"""The paper's experiment in small asks for what was asked: methods, settings, costs, counts."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from picture_trial import batch_overrides
from plan import ARROW, load_experiment
from rows import PictureRow, read_rows
from run import block_captions, execute
from threestudio.utils.config import merge_configs

ROOT = Path(__file__).resolve().parents[2]
PATH = Path("custom/threestudio-reward-sds/experiments/blocks-2d.yaml")
FAMILIES = ("sds", "vsd", "dds", "bridge")
SCHEDULE = ("min_step_percent", "max_step_percent", "bridge_start")
"""What a longer run stretches."""


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_experiment(PATH, block_captions)


@pytest.fixture
def settings(experiment, tmp_path):
    """Resolved config of each method, as its first batch is run."""
    Image.new("RGB", (64, 64)).save(source := tmp_path / "source.png")
    found = {}
    for batch in experiment.batches:
        if batch[0].method not in found:
            sources = [source if ARROW in trial.caption else None for trial in batch]
            overrides = list(batch_overrides(batch, sources, tmp_path))
            found[batch[0].method] = merge_configs(batch[0].config, cli_args=overrides, n_gpus=1)
    return found


def methods_of(experiment, title):
    """Return a group's baseline, which has no reward, and its other methods."""
    (group,) = (group for group in experiment.groups if group.title == title)
    return group.baseline, [method for method in group.methods if method != group.baseline]


def has_no_reward(config):
    return "n_noises" not in config.system.guidance and "reward" not in config.system.guidance_type


def ablated(experiment, settings, title, key):
    """Return what the methods of a curve set a key of the guidance to; all else must be equal."""
    baseline, others = methods_of(experiment, title)
    assert has_no_reward(settings[baseline])
    guidances = [dict(settings[method].system.guidance) for method in others]
    values = {guidance.pop(key) for guidance in guidances}
    assert all(guidance == guidances[0] for guidance in guidances)
    trainers = [settings[method].trainer for method in (baseline, *others)]
    optimizers = [settings[method].system.optimizer for method in (baseline, *others)]
    assert all(trainer == trainers[0] for trainer in trainers)
    assert all(optimizer == optimizers[0] for optimizer in optimizers)
    return values


@pytest.mark.parametrize(
    "title, key, values",
    [
        ("Candidates", "n_noises", {3, 6, 7, 10}),
        ("Preview steps", "preview_steps", {0, 1, 4, 15}),
        ("Reward duration", "reward_duration", {0.25, 0.5, 0.75, 1.0}),
    ],
)
def test_an_ablation_changes_one_setting(experiment, settings, title, key, values):
    """The baseline of each is N = 1, no reward and a duration of 0."""
    assert ablated(experiment, settings, title, key) == values


def test_the_six_weightings_of_the_paper_are_compared(experiment, settings):
    baseline, others = methods_of(experiment, "Weighting")
    assert has_no_reward(settings[baseline])
    found = []
    for method in others:
        guidance = settings[method].system.guidance
        strategy = {} if guidance.reward_strategy_type == "random" else guidance.reward_strategy
        counts = {key: strategy[key] for key in strategy if key.startswith("num_")}
        found.append((guidance.reward_strategy_type, counts))
        assert guidance.n_noises == 6 and guidance.preview_steps == 1
    assert sorted(found, key=str) == [
        ("best", {"num_best": 1}),
        ("best", {"num_best": 2}),
        ("min-max", {"num_best": 1, "num_worst": 1}),
        ("min-max", {"num_best": 2, "num_worst": 2}),
        ("random", {}),
        ("softmax", {}),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_reward_version_and_two_controls(experiment, settings, family):
    """A hundred runs each on the same captions and seeds; `mean` differs in the strategy alone."""
    methods = (family, f"reward-{family}", f"mean-{family}", f"long-{family}")
    runs = {m: {t.key[1:] for t in experiment.trials if t.method == m} for m in methods}
    assert len(runs[family]) >= 100 and all(keys == runs[family] for keys in runs.values())
    (group,) = (group for group in experiment.groups if group.baseline == family)
    references = {"unedited"} if family == "dds" else set()
    assert set(group.methods) == {*methods, *references} and group.reward == methods[1]
    baseline, reward, mean, long = (settings[method].system.guidance for method in methods)
    assert (reward.n_noises, reward.preview_steps, reward.reward_duration) == (6, 1, 1.0)
    assert reward.reward_strategy_type == "min-max" and mean.reward_strategy_type == "mean"
    strategy = ("reward_strategy", "reward_strategy_type")
    assert {k: v for k, v in mean.items() if k not in strategy} == {
        k: v for k, v in reward.items() if k not in strategy
    }
    for method in methods:
        assert has_no_reward(settings[method]) is (method in (family, f"long-{family}"))
    assert settings[family].trainer.max_steps == settings[f"reward-{family}"].trainer.max_steps
    assert {k: v for k, v in long.items() if k not in SCHEDULE} == {
        k: v for k, v in baseline.items() if k not in SCHEDULE
    }


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_long_and_reward_have_as_many_network_images(experiment, settings, family, tmp_path):
    """Images of two steps, times half the steps; of Bridge one step of each stage, whose shares of
    the steps are the same."""
    images, starts = [], []
    for method in (f"long-{family}", f"reward-{family}"):
        trial = next(trial for trial in experiment.trials if trial.method == method)
        small = ["trainer.max_steps=2", "system.guidance.chunk_size=16"]
        steps = settings[method].trainer.max_steps
        if family == "bridge":
            starts.append(settings[method].system.guidance.bridge_start / steps)
            small.append("system.guidance.bridge_start=1")
        trial = dataclasses.replace(trial, overrides=(*trial.overrides, *small))
        table = tmp_path / f"{method}.csv"
        tiny = dataclasses.replace(
            experiment, name=str(tmp_path), trials=[trial], table=table, batch=1
        )
        assert execute(tiny, tiny.batches, 0, 1) == 0
        images.append(read_rows(table, PictureRow)[0].unet_calls / 2 * steps)
    assert images[0] == images[1] > 0
    assert len(set(starts)) <= 1


def test_captions_are_the_held_out_ones(experiment):
    runs = Counter(trial.method for trial in experiment.trials)
    families = [group for group in experiment.groups if group.kind == "family"]
    assert [group.baseline for group in families] == list(FAMILIES)
    assert min(runs.values()) >= 28
    known = set(block_captions("held-out", 20)) | set(block_captions("held-out", edits=80))
    assert {trial.caption for trial in experiment.trials} <= known
