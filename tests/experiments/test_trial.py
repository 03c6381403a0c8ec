"""One run: overrides, counting, saved views."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from plan import Evaluation, Trial
from run import QUIET
from trial import count_unet_calls, run_trial, save_views, trial_overrides

ROOT = Path(__file__).resolve().parents[2]

TRIAL = Trial("sds", "a red cube under a blue cone", 7, "a.yaml", ("x=1",), "a.yaml@1")


def test_overrides_say_what_to_run_and_where(tmp_path):
    overrides = trial_overrides(TRIAL, tmp_path)
    assert overrides[0] == "x=1"
    assert "system.prompt_processor.prompt=a red cube under a blue cone" in overrides
    assert "seed=7" in overrides and "trainer.log_every_n_steps=1" in overrides


def test_two_runs_never_share_a_folder(tmp_path):
    other = Trial("sds", TRIAL.caption, 8, "a.yaml", (), "a.yaml@1")
    tags = [
        [o for o in trial_overrides(t, tmp_path) if o.startswith("tag=")] for t in (TRIAL, other)
    ]
    assert tags[0] != tags[1]


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
@pytest.mark.parametrize("config", ["blocks-mvdream-sds", "blocks-mvdream-reward-sds"])
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
