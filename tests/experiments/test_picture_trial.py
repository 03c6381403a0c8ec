"""A batch of pictures: overrides, what becomes of its results, edits."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import picture_trial
from picture_trial import batch_overrides, parse_edit, run_pictures, source_path, target_of
from plan import Evaluation, Experiment, Trial
from rows import PictureRow, read_rows
from run import execute
from trial import run_folder, run_seed

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = ("a red cube under a blue cone", "a pink torus on top of a green cube")
BATCH = tuple(Trial("sds", caption, 7, "a.yaml", ("x=1",), "a.yaml@1") for caption in CAPTIONS)
EDIT = "a red cube under a blue cone -> a green cube under a blue cone"
EVALUATION = Evaluation(
    judge="load/blocks/judge-front", reward={"pretrained_model_name_or_path": "load/blocks/reward"}
)


def test_overrides_give_each_picture_its_caption_and_seed(tmp_path):
    found = dict(o.split("=", 1) for o in batch_overrides(BATCH, [None, None], tmp_path))
    assert json.loads(found["system.prompt_processor.prompts"]) == list(CAPTIONS)
    assert json.loads(found["data.seeds"]) == [run_seed(caption, 7) for caption in CAPTIONS]
    assert found["x"] == "1" and found["trainer.log_every_n_steps"] == "1"
    assert not any("source" in key for key in found)


def test_overrides_of_an_edit_say_what_it_starts_from(tmp_path):
    batch = (Trial("dds", EDIT, 7, "a.yaml", (), "a.yaml@1"),)
    found = dict(o.split("=", 1) for o in batch_overrides(batch, [tmp_path / "s.png"], tmp_path))
    assert json.loads(found["system.prompt_processor.prompts"]) == [EDIT.split(" -> ")[1]]
    assert json.loads(found["system.guidance.source_prompts"]) == [EDIT.split(" -> ")[0]]
    assert json.loads(found["system.guidance.source_image"]) == [str(tmp_path / "s.png")]


def test_target_of_a_caption_is_the_caption():
    assert [target_of(c) for c in (CAPTIONS[0], EDIT)] == [CAPTIONS[0], EDIT.split(" -> ")[1]]


@pytest.mark.parametrize(
    "target, kind",
    [
        ("a green cube under a blue cone", "color"),
        ("a red torus under a blue cone", "shape"),
        ("a red cube on top of a blue cone", "relation"),
    ],
)
def test_edits_are_read_back(target, kind):
    edit = parse_edit(f"a red cube under a blue cone -> {target}")
    assert (edit.kind, str(edit.source), str(edit.target)) == (kind, CAPTIONS[0], target)


class Painter(torch.nn.Module):
    """A system that is done at once: a grey picture and a white one."""

    def __init__(self):
        super().__init__()
        self.shades = torch.nn.Parameter(torch.tensor([0.5, 1.0]))

    def pictures(self):
        return self.shades.detach().view(2, 1, 1, 1).expand(2, 64, 64, 3)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Stand in for the training, which counts 16 network images for the batch, and the scorers."""
    verdicts = [
        SimpleNamespace(shape_ok=True, color_ok=ok, relation_ok=ok, text=str(ok))
        for ok in (True, False)
    ]
    monkeypatch.setattr(picture_trial, "judge_views", lambda *args: verdicts.pop(0))
    monkeypatch.setattr(picture_trial, "score_pictures", lambda p, c, e: [1.0, 2.0])

    def run(config, overrides, mode):
        folder = run_folder(BATCH[0], tmp_path)
        logs = folder / f"csv_logs/version_{len(list(folder.glob('csv_logs/*')))}"
        logs.mkdir(parents=True)
        (logs / "metrics.csv").write_text("step,train/unet_calls\n0,16\n")
        return SimpleNamespace(system=Painter(), trial_dir=str(folder), interrupted=False)

    return run


def test_each_picture_of_a_batch_becomes_a_row(run, tmp_path):
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    (run_folder(BATCH[0], tmp_path) / "csv_logs/version_0").mkdir(parents=True)  # a killed run's
    rows = run_pictures(BATCH, EVALUATION, tmp_path, paths, run=run)
    assert [(row.caption, row.relation_ok, row.reward) for row in rows] == [
        (CAPTIONS[0], True, 1.0),
        (CAPTIONS[1], False, 2.0),
    ]
    assert [row.unet_calls for row in rows] == [8, 8]
    assert [Image.open(path).getpixel((0, 0))[0] for path in paths] == [128, 255]
    assert rows[0].picture != rows[1].picture and rows[0].outside is None
    assert not run_folder(BATCH[0], tmp_path).exists()


def test_an_interrupted_batch_is_no_result(tmp_path):
    interrupted = SimpleNamespace(interrupted=True)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    with pytest.raises(KeyboardInterrupt):
        run_pictures(BATCH, EVALUATION, tmp_path, paths, run=lambda *a, **k: interrupted)


def test_an_edit_is_compared_with_its_source_where_nothing_may_change(run, tmp_path):
    batch = (Trial("dds", EDIT, 7, "a.yaml", (), "a.yaml@1"),) * 2
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    grey, white = run_pictures(batch, EVALUATION, tmp_path, paths, run=run)
    assert Image.open(source_path(paths[0])).size == (64, 64)
    # the background is grey: a grey picture differs from it only where solids stand
    assert 0 < grey.outside < 0.2 < white.outside < 0.6


@pytest.mark.slow
def test_two_small_cells_with_the_shipped_weights_and_a_rerun(tmp_path, monkeypatch):
    """Two methods on two captions; then one row is lost, and comes back as it was."""
    monkeypatch.chdir(ROOT)
    small = ("trainer.max_steps=2", "system.guidance.chunk_size=4")
    trials = [
        Trial(name, c, 0, f"custom/threestudio-reward-sds/configs/{name}.yaml", small, "x.yaml@1")
        for c in CAPTIONS
        for name in ("blocks-image-sds", "blocks-image-reward-sds")
    ]
    table, source = tmp_path / "t.csv", Path("tiny.yaml")
    experiment = Experiment(str(tmp_path), trials, table, EVALUATION, [], source, batch=2)
    assert execute(experiment, experiment.batches, 0, 1) == 0
    rows = read_rows(table, PictureRow)
    assert [row.unet_calls for row in rows] == [4, 4, 24, 24]
    assert len({row.picture for row in rows}) == 4
    for row in rows:
        assert Image.open(experiment.picture(*row.key)).size == (64, 64)
    assert execute(experiment, experiment.batches[1:], 0, 1) == 0
    again = {row.key: row for row in read_rows(table, PictureRow)}
    assert len(again) == 4
    assert all(again[row.key].picture == row.picture for row in rows)
    assert all(again[row.key].reward == row.reward for row in rows)
