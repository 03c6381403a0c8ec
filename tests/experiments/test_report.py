"""The report's numbers, by hand."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

import report
from plan import Evaluation, Experiment, Trial
from report import (
    baseline_of,
    difference_table,
    draw_gallery,
    machine,
    method_table,
    planned_rows,
    relation_table,
    render,
)
from rows import append_rows
from tests.experiments.samples import CAPTIONS, PICTURE, row, two_methods


@pytest.fixture
def by_method():
    return two_methods()


def test_rates(by_method):
    table = method_table(by_method)
    assert "| sds | 4 | 25.0 | 100.0 | 25.0 | 0.250 | 1600 |" in table
    assert "| reward-sds | 4 | 75.0 | 75.0 | 75.0 | 0.250 | 1600 |" in table


def test_relations(by_method):
    lines = relation_table(by_method).splitlines()
    assert lines[2] == "| sds | - | - | 50 (1/2) | 0 (0/2) |"
    assert lines[3] == "| reward-sds | - | - | 100 (2/2) | 50 (1/2) |"


@pytest.mark.parametrize(
    ("method", "baseline"),
    [("sds", None), ("mean-sds", "sds"), ("reward-vsd", "vsd"), ("vsd", None)],
)
def test_a_method_is_compared_with_the_one_that_its_name_ends_in(method, baseline):
    assert baseline_of(method, ["sds", "mean-sds", "vsd", "reward-vsd"]) == baseline


def test_methods_are_compared_on_the_runs_that_both_have(by_method):
    """On the first caption both are right with seed 0, and one more of reward-sds with seed 1; one
    caption says next to nothing."""
    by_method["reward-sds"] = [r for r in by_method["reward-sds"] if r.caption == CAPTIONS[0]]
    assert "| reward-sds minus sds | 2 | +50.0 [-96.2, +98.8] |" in difference_table(by_method)


def test_the_page_says_what_the_runs_used(by_method):
    """4 runs of 900 s are one hour of a core, with two threads two, and one of a GPU."""
    rows = [dataclasses.replace(r, seconds=900.0, torch="2") for r in by_method["sds"]]
    two = [dataclasses.replace(r, threads=2) for r in rows]
    gpu = [dataclasses.replace(r, device="cuda") for r in two]
    assert machine([*gpu, *rows, *two]) == (
        "Made on: cpu, torch 2, 1 threads a run: 4 runs in 1.00 core hours; "
        "cpu, torch 2, 2 threads a run: 4 runs in 2.00 core hours; "
        "cuda, torch 2, 2 threads a run: 4 runs in 1.00 cuda hours. Configs: a.yaml@1."
    )


def test_page_and_gallery(by_method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [r for rows in by_method.values() for r in rows]
    trials = [Trial(r.method, r.caption, r.seed, "a.yaml", (), "a.yaml@1") for r in rows]
    source = Path("tiny.yaml")
    experiment = Experiment("tiny", trials, tmp_path / "t.csv", Evaluation(), [], source)
    assert draw_gallery(experiment, rows, 2, tmp_path / "g.png") is False
    for r in rows:
        path = experiment.picture(r.method, r.caption, r.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 64), (200, 30, 30)).save(path)
    assert draw_gallery(experiment, rows, 2, tmp_path / "g.png") is True
    assert Image.open(tmp_path / "g.png").size[0] > 2 * 256
    drawn = (tmp_path / "g.png").read_bytes()
    experiment.picture(rows[0].method, rows[0].caption, 0).unlink()
    assert draw_gallery(experiment, rows, 2, tmp_path / "g.png") is True
    assert (tmp_path / "g.png").read_bytes() == drawn, "made where all views were, so it is kept"
    assert draw_gallery(experiment, rows, 2, tmp_path / "h.png") is True
    assert (tmp_path / "h.png").read_bytes() != drawn, "there is none yet: what there is, is drawn"
    page = render(experiment, rows, "g.png")
    assert "8 of 8 runs on 2 captions" in page
    assert "| reward-sds minus sds | 4 | +50.0 [" in page
    assert "(g.png)" in page


def test_rows_know_the_batch_that_they_share_something_with(tmp_path):
    trials = [Trial("vsd", caption, 0, "a.yaml", (), "a.yaml@1") for caption in CAPTIONS]
    parts = ("tiny", trials, tmp_path / "t.csv", Evaluation(), [], Path("tiny.yaml"))
    experiment = Experiment(*parts, batch=1, sharing=frozenset(["vsd"]))
    picture = dataclasses.replace(PICTURE, method="vsd", seed=0, config="a.yaml@1")
    rows = [dataclasses.replace(picture, caption=caption) for caption in CAPTIONS]
    append_rows(experiment.table, rows)
    assert [row.batch for row in planned_rows(experiment)] == [0, 1]
    assert [row.batch for row in planned_rows(dataclasses.replace(experiment, sharing=()))] == [
        None,
        None,
    ]


def test_rows_of_another_config_are_not_reported(tmp_path):
    trials = [Trial("sds", CAPTIONS[0], 0, "a.yaml", (), "a.yaml@1")]
    parts = ("tiny", trials, tmp_path / "t.csv", Evaluation(), [], Path("tiny.yaml"))
    append_rows(tmp_path / "t.csv", [row("sds", CAPTIONS[0], 0, relation=True)])
    assert len(planned_rows(Experiment(*parts))) == 1
    other = dataclasses.replace(trials[0], config_id="a.yaml@2")
    with pytest.raises(
        ValueError, match="made with a.yaml@1, the experiment now asks for a.yaml@2"
    ):
        planned_rows(dataclasses.replace(Experiment(*parts), trials=[other]))


def test_a_wrong_experiment_is_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "prepare", lambda threads: None)
    (tmp_path / "tiny.yaml").write_text("{name: tiny}")
    assert report.main([str(tmp_path / "tiny.yaml")]) == 2
    assert "missing keys ['captions', 'methods', 'seeds', 'table']" in capsys.readouterr().err
