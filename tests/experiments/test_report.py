"""The report's numbers, by hand."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from plan import Evaluation, Experiment, Trial
from report import (
    baseline_of,
    check_floor,
    difference_table,
    draw_gallery,
    floor_table,
    method_table,
    relation_table,
    render,
)
from tests.experiments.samples import ROW

CAPTIONS = ("a red cube on top of a blue cone", "a red cube under a blue cone")


def row(method, caption, seed, relation, looks=True):
    fields = {"method": method, "caption": caption, "seed": seed, "config": "a.yaml@1"}
    oks = {"relation_ok": relation, "shape_ok": looks, "color_ok": True}
    return dataclasses.replace(ROW, **fields, **oks)


@pytest.fixture
def by_method():
    """sds is right in 1 of 4 runs, reward-sds in 3 of 4 and looks wrong once."""
    sds = [row("sds", c, s, relation=(c, s) == (CAPTIONS[0], 0)) for c in CAPTIONS for s in (0, 1)]
    reward = [
        row(
            "reward-sds",
            c,
            s,
            relation=(c, s) != (CAPTIONS[1], 1),
            looks=s == 0 or c == CAPTIONS[0],
        )
        for c in CAPTIONS
        for s in (0, 1)
    ]
    return {"sds": sds, "reward-sds": reward}


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


@pytest.mark.parametrize(
    "limits, met",
    [
        ({"at_least": 50}, True),
        ({"at_least": 51}, False),
        ({"at_most": 49}, False),
        ({"at_least": 10, "lower_bound_at_least": 60}, False),
    ],
)
def test_difference_floors(by_method, limits, met):
    """75 - 25 = 50 points."""
    floor = {"measure": "relation", "method": "reward-sds", "minus": "sds", **limits}
    assert check_floor(by_method, floor)[2] is met


def test_methods_are_compared_on_the_runs_that_both_have(by_method):
    """On the first caption both are right with seed 0, and one more of reward-sds with seed 1."""
    by_method["reward-sds"] = [r for r in by_method["reward-sds"] if r.caption == CAPTIONS[0]]
    assert "| reward-sds minus sds | 2 | +50.0 [+50.0, +50.0] |" in difference_table(by_method)


def test_unmet_floor_is_said_aloud(by_method):
    floors = [{"measure": "looks", "method": "reward-sds", "at_least": 80}]
    table = floor_table(by_method, floors, {"reward-sds": 4})
    assert "| looks: reward-sds at least 80 | 75.0 | **no** |" in table


def test_an_unfinished_floor_is_not_judged(by_method):
    floors = [{"measure": "looks", "method": "reward-sds", "at_least": 80}]
    table = floor_table(by_method, floors, {"reward-sds": 5})
    assert "| looks: reward-sds at least 80 | 4 of 5 runs are made | - |" in table


@pytest.mark.parametrize("p_below, met", [(0.6, True), (0.01, False)])
def test_a_floor_may_ask_for_a_p_value(by_method, p_below, met):
    """Both captions gain 50 points: either exchange of both is as extreme, 2 of 4."""
    floor = {"measure": "relation", "method": "reward-sds", "minus": "sds", "p_below": p_below}
    name, found, is_met = check_floor(by_method, floor)
    assert name.endswith(f"p below {p_below}") and found.endswith(", p = 0.5")
    assert is_met is met


@pytest.mark.parametrize(
    "steps, met", [(["sds", "reward-sds", "all"], True), (["sds", "none", "all"], False)]
)
def test_a_floor_may_ask_for_the_first_step_to_be_the_biggest(by_method, steps, met):
    """25 %, 75 %, 100 %: the step of 50 comes before that of 25; and 25, 0, 100 has its last."""
    for name, relation in (("all", True), ("none", False)):
        by_method[name] = [row(name, r.caption, r.seed, relation) for r in by_method["sds"]]
    floor = {"measure": "relation", "steps": steps}
    assert check_floor(by_method, floor)[2] is met
    table = floor_table(by_method, [floor], {"sds": 4, "reward-sds": 4, "none": 4, "all": 5})
    assert "| 4 of 5 runs are made | - |" in table


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
    page = render(experiment, rows, "g.png")
    assert "8 of 8 runs on 2 captions" in page
    assert "| reward-sds minus sds | 4 | +50.0 [" in page
    assert "(g.png)" in page
