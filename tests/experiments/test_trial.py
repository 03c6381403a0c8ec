"""One run: overrides, counting, saved views."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import trial as trial_module
from plan import Evaluation, Trial
from run import QUIET
from trial import (
    count_unet_calls,
    run_folder,
    run_seed,
    run_trial,
    save_views,
    trial_overrides,
)

ROOT = Path(__file__).resolve().parents[2]

TRIAL = Trial("sds", "a red cube under a blue cone", 7, "a.yaml", ("x=1",), "a.yaml@1")


def test_overrides_say_what_to_run_and_where(tmp_path):
    overrides = trial_overrides(TRIAL, tmp_path)
    assert overrides[0] == "x=1"
    assert "system.prompt_processor.prompt=a red cube under a blue cone" in overrides
    assert (
        f"seed={run_seed(TRIAL.caption, 7)}" in overrides
        and "trainer.log_every_n_steps=1" in overrides
    )


def test_two_runs_never_share_a_folder(tmp_path):
    other = Trial("sds", TRIAL.caption, 8, "a.yaml", (), "a.yaml@1")
    tags = [
        [o for o in trial_overrides(t, tmp_path) if o.startswith("tag=")] for t in (TRIAL, other)
    ]
    assert tags[0] != tags[1]


def test_every_caption_and_seed_draws_its_own_noise_whatever_the_method():
    captions, seeds = [f"a red cube {i}" for i in range(40)], range(3)
    assert len({run_seed(caption, seed) for caption in captions for seed in seeds}) == 120
    assert all(0 <= run_seed(caption, 0) < 2**31 for caption in captions)
    other = dataclasses.replace(TRIAL, method="reward-sds")
    assert [o for o in trial_overrides(TRIAL, Path("x")) if o.startswith("seed=")] == [
        o for o in trial_overrides(other, Path("x")) if o.startswith("seed=")
    ]


def note_calls(folder: Path, version: int) -> None:
    """Write the metrics of one step of 16 network images."""
    logs = folder / f"csv_logs/version_{version}"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("step,train/unet_calls\n0,16\n")


@pytest.fixture
def judged(monkeypatch):
    """Replace rendering, judge and reward."""
    verdict = SimpleNamespace(shape_ok=True, color_ok=True, relation_ok=True, text="")
    monkeypatch.setattr(trial_module, "canonical_views", lambda *args: torch.zeros(4, 3, 8, 8))
    monkeypatch.setattr(trial_module, "judge_views", lambda *args: verdict)
    monkeypatch.setattr(trial_module, "score_views", lambda *args: 0.0)


def test_what_a_killed_run_left_is_not_counted(tmp_path, judged):
    note_calls(run_folder(TRIAL, tmp_path), 0)

    def run(config, overrides, mode):
        folder = run_folder(TRIAL, tmp_path)
        note_calls(folder, len(list(folder.glob("csv_logs/*"))))
        return SimpleNamespace(system=None, trial_dir=str(folder), interrupted=False)

    row = run_trial(TRIAL, Evaluation(), tmp_path, tmp_path / "views.png", run=run)
    assert row.unet_calls == 16
    assert row.seed == 7, "the table has the seed as the experiment counts"
    assert not run_folder(TRIAL, tmp_path).exists()


def test_an_interrupted_run_is_no_row(tmp_path, judged):
    interrupted = SimpleNamespace(system=None, trial_dir=str(tmp_path), interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        run_trial(
            TRIAL, Evaluation(), tmp_path, tmp_path / "v.png", run=lambda *a, **k: interrupted
        )


def test_network_images_are_summed_over_steps(tmp_path):
    """16 + 64 images; a row without the column (validation) counts nothing."""
    folder = tmp_path / "csv_logs" / "version_0"
    folder.mkdir(parents=True)
    lines = ["step,train/unet_calls,train/loss", "0,16,1.0", "1,64,0.9", "1,,"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    assert count_unet_calls(tmp_path) == 80


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_views_are_saved_side_by_side_and_exactly(tmp_path, value):
    views = torch.zeros(4, 3, 8, 8)
    views[2] = value
    save_views(views, tmp_path / "strip.png")
    strip = Image.open(tmp_path / "strip.png")
    assert strip.size == (32, 8)
    assert strip.getpixel((20, 4)) == (round(value * 255),) * 3
    assert strip.getpixel((4, 4)) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", ["blocks-mvdream-sds", "blocks-mvdream-reward-sds", "blocks-gaussians-reward-sds"]
)
def test_a_short_run_with_the_shipped_weights_becomes_a_row(config, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = f"custom/threestudio-reward-sds/configs/{config}.yaml"
    small = ("trainer.max_steps=2", "data.width=16", "data.height=16", "data.batch_size=4")
    small += ("data.resolution_milestones=[]", "data.eval_width=16", "data.eval_height=16")
    trial = Trial(config, "a red cube under a blue cone", 0, path, small, "config@1")
    evaluation = Evaluation(reward={"pretrained_model_name_or_path": "load/blocks/reward"})
    row = run_trial(trial, evaluation, tmp_path / "runs", tmp_path / "views.png", QUIET)
    calls = 2 * 8 * (4 if "reward" in config else 1)
    assert row.unet_calls == calls, "2 steps of 4 views, with and without prompt"
    assert Image.open(tmp_path / "views.png").size == (256, 64)
    assert not list((tmp_path / "runs").rglob("*.ckpt")), "the run folder is removed"
