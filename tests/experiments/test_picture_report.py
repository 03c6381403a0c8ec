"""The page of a picture experiment: who is better, says the judge, and at what p."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from groups import Group
from picture_report import (
    curve_rows,
    difference_table,
    group_section,
    kind_table,
    p_text,
    rate_table,
    reading,
    verdict,
    verdict_line,
    write_pictures,
)
from plan import Evaluation, Experiment, Trial
from tests.experiments.samples import PICTURE

CAPTIONS = [f"caption {i}" for i in range(20)]
GROUP = Group("SDS", "family", "sds", "reward", {"sds": "SDS", "reward": "RewardSDS"}, "Why.")


def rows_of(method, right, reward=10.0, outside=None):
    """A row per caption; the first `right` captions are right in everything, the rest in nothing
    but shape and colour."""
    base = dataclasses.replace(PICTURE, color_ok=True, seed=0, unet_calls=400, seconds=2.0)
    return [
        dataclasses.replace(
            base, method=method, caption=c, relation_ok=i < right, reward=reward, outside=outside
        )
        for i, c in enumerate(CAPTIONS)
    ]


@pytest.mark.parametrize(
    "right, reward, words",
    [
        (18, 30.0, "better, reward up"),
        (18, 10.0, "better, reward undecided"),
        (18, 5.0, "better, reward down"),
        (9, 30.0, "reward up, judge undecided"),
        (8, 30.0, "**reward up, judge not**"),
        (7, 30.0, "**reward up, judge not**"),
        (9, 10.0, "no difference shown"),
        (7, 5.0, "reward down, judge undecided"),
        (0, 30.0, "**worse**, reward up: the reward is hacked"),
        (0, 10.0, "**worse**, reward undecided"),
        (0, 5.0, "**worse**, reward down"),
    ],
)
def test_reading(right, reward, words):
    """Of 20 captions 8 are right: 18 are better, 0 worse at p < 0.01, 7 and 9 neither."""
    assert reading(rows_of("reward", right, reward), rows_of("sds", 8)) == words


def test_a_judge_that_finds_all_right_cannot_rise():
    """On the runs that both have; other seeds of the baseline do not count."""
    others = [dataclasses.replace(row, seed=1) for row in rows_of("sds", 0)]
    found = reading(rows_of("reward", 20, 30.0), [*rows_of("sds", 20), *others])
    assert found == "reward up, judge could not rise"


def test_a_reward_that_rises_on_few_captions_has_not_risen():
    """Three captions: 2 of 8 exchanges are as extreme, whatever the size of the difference."""
    assert reading(rows_of("reward", 3, 90.0)[:3], rows_of("sds", 3)[:3]) == "no difference shown"


FAMILY = dataclasses.replace(GROUP, methods={**GROUP.methods, "mean": "mean", "long": "SDS, long"})
PLANNED = dict.fromkeys(FAMILY.methods, 20)


def test_verdict_names_every_opponent_and_says_plainly_who_is_not_beaten():
    by_method = {
        "sds": rows_of("sds", 4),
        "reward": rows_of("reward", 20),
        "mean": rows_of("mean", 19),
        "long": rows_of("long", 20),
    }
    found = verdict(FAMILY, by_method, PLANNED)
    assert found.startswith("On the judge, at p < 0.01, RewardSDS beats SDS (+80.0 [")
    assert "points, p < 0.0001, 20 pairs); does **not** beat mean (+5.0 [" in found
    assert "; does **not** beat SDS, long (+0.0 [" in found
    by_method["sds"], by_method["reward"] = rows_of("sds", 20), rows_of("reward", 4)
    assert "RewardSDS does **not** beat SDS (-80.0 [" in verdict(FAMILY, by_method, PLANNED)


def test_there_is_no_verdict_before_the_runs_are_made():
    """Neither on a method with some of its runs, nor on one without any; the others keep theirs."""
    by_method = {
        "sds": rows_of("sds", 4),
        "reward": rows_of("reward", 20),
        "mean": rows_of("mean", 4)[:10],
    }
    found = verdict(FAMILY, by_method, PLANNED)
    assert "RewardSDS beats SDS (+80.0 [" in found and "20 pairs" in found
    assert found.endswith(
        "; against mean, 10 of 20 runs are made; against SDS, long, 0 of 20 runs are made."
    )
    table = difference_table(FAMILY, by_method, PLANNED).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in table] == [
        ["| RewardSDS minus SDS", "20"],
        ["| mean minus SDS", "10"],
        ["| RewardSDS minus mean", "10"],
    ]
    readings = [line.split(" | ")[-1] for line in table]
    assert readings[1:] == ["10 of 20 runs are made |"] * 2
    assert readings[0] == "better, reward undecided |"
    rates = rate_table(FAMILY, by_method, PLANNED)
    assert "| SDS | 20 | 20.0 [" in rates and "| mean | 10 of 20 | 40.0 [" in rates
    by_method["reward"] = by_method["reward"][:10]
    assert "RewardSDS against SDS, 10 of 20 runs" in verdict(FAMILY, by_method, PLANNED)


def test_methods_without_a_run_in_common_have_no_difference():
    by_method = {"sds": rows_of("sds", 4)[:10], "reward": rows_of("reward", 4)[10:]}
    assert difference_table(GROUP, by_method, PLANNED) == ""
    assert "10 of 20 runs are made" in group_section(GROUP, by_method, PLANNED)


def test_tables():
    by_method = {"sds": rows_of("sds", 4), "reward": rows_of("reward", 20, 30.0)}
    rates = rate_table(GROUP, by_method, PLANNED)
    differences = difference_table(GROUP, by_method, PLANNED)
    assert "| SDS | 20 | 20.0 [" in rates and "| 400 | 2.0 |" in rates
    assert "| RewardSDS | 20 | 100.0 [83.2, 100.0] |" in rates
    assert "| difference | pairs | all right % | p | relation right % | p |" in differences
    assert "| optimised reward | p | reading |" in differences
    assert "| RewardSDS minus SDS | 20 | +80.0 [" in differences
    assert "+20.00 [all equal]" in differences
    assert "outside" not in rates


def test_edits_have_what_they_changed_outside():
    by_method = {"sds": rows_of("sds", 4, outside=0.01), "reward": rows_of("reward", 9, 9.0, 0.03)}
    assert "changed outside %" in rate_table(GROUP, by_method, PLANNED)
    assert "| +2.00 [-15.18, +18.51] |" in difference_table(GROUP, by_method, PLANNED)


def test_edits_are_shown_by_what_is_edited():
    """Of two colours, a shape and a relation."""
    source = "a red cube on top of a blue cone"
    targets = [f"a {color} cube on top of a blue cone" for color in ("green", "cyan")]
    targets += ["a red torus on top of a blue cone", "a red cube under a blue cone"]
    base = dataclasses.replace(PICTURE, color_ok=True, seed=0, outside=0.01)
    by_method = {
        method: [
            dataclasses.replace(base, caption=f"{source} -> {target}", relation_ok=i < right)
            for i, target in enumerate(targets)
        ]
        for method, right in {"sds": 1, "reward": 3}.items()
    }
    lines = kind_table(GROUP, by_method).splitlines()
    assert lines[2] == "| edit of the | runs | SDS | RewardSDS |"
    assert lines[4].startswith("| colour | 2 | 50.0 [") and "| 100.0 [" in lines[4]
    assert lines[5].startswith("| shape | 1 | 0.0 [") and "| 100.0 [" in lines[5]
    assert lines[6].startswith("| relation | 1 | 0.0 [") and "| 0.0 [" in lines[6]
    assert kind_table(GROUP, by_method) in group_section(GROUP, by_method, PLANNED)


def test_curves_have_a_chart_for_the_judge_and_one_for_the_reward():
    curve = dataclasses.replace(GROUP, kind="curve")
    by_method = {"sds": rows_of("sds", 4), "reward": rows_of("reward", 20, 30.0)}
    charts = curve_rows([(curve, by_method), (GROUP, by_method)])
    assert [[[p.y for p in c.points] for c in row] for row in charts] == [
        [[20.0, 100.0]],
        [[10.0, 30.0]],
    ]
    by_method["reward"] = by_method["reward"][2:]
    (judged, _) = curve_rows([(curve, by_method)])
    assert [p.y for p in judged[0].points] == [pytest.approx(100 * 2 / 18), 100.0]
    assert "| SDS | 18 | 11.1 [" in rate_table(curve, by_method, {"sds": 20, "reward": 18})
    assert charts[0][0].points[0].x == 400 and charts[0][0].points[1].label == "RewardSDS"
    assert curve_rows([(GROUP, by_method)]) == []


def test_words():
    assert [p_text(p) for p in (0.04321, 0.00001)] == ["0.043", "< 0.0001"]
    assert [p_text(p, "= ") for p in (0.04321, 0.00001)] == ["= 0.043", "< 0.0001"]
    assert verdict_line(PICTURE) == "wrong: colour"
    assert verdict_line(dataclasses.replace(PICTURE, color_ok=True)) == "right"


def test_the_page_says_how_pictures_that_share_an_adapter_are_counted(tmp_path):
    """Twenty captions in one batch say as little as one."""
    rows = rows_of("sds", 20)
    shared = [dataclasses.replace(row, batch=0) for row in rows]
    trials = [Trial(r.method, r.caption, r.seed, "a.yaml", (), r.config) for r in rows]
    parts = ("tiny", trials, tmp_path / "t.csv", Evaluation(), [], Path("tiny.yaml"))
    curve = Group("N", "curve", "sds", None, {"sds": "SDS"})
    experiment = Experiment(*parts, batch=20, groups=[curve])
    text = write_pictures(experiment, shared).read_text()
    assert "over captions and over batches" in text and "100.0 [2.5, 100.0]" in text
    text = write_pictures(experiment, rows).read_text()
    assert "over batches" not in text and "100.0 [83.2, 100.0]" in text


@pytest.mark.parametrize("caption", ["a cone", "a cube -> a cone"])
def test_page_curves_and_gallery(caption, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        dataclasses.replace(PICTURE, method=m, caption=f"{c}{caption}", seed=0)
        for c in "ab"
        for m in ("sds", "reward")
    ]
    trials = [Trial(r.method, r.caption, r.seed, "a.yaml", (), r.config) for r in rows]
    curve = dataclasses.replace(GROUP, title="N", kind="curve", reward=None, note="")
    floors = [{"measure": "all", "method": "reward", "minus": "sds", "p_below": 0.01}]
    parts = ("tiny", trials, tmp_path / "t.csv", Evaluation(), floors, Path("tiny.yaml"))
    experiment = Experiment(*parts, batch=2, groups=[GROUP, curve])
    page = write_pictures(experiment, rows)
    assert "gallery" not in page.read_text() and not (tmp_path / "t-sds.png").exists()
    for r in rows:
        path = experiment.picture(*r.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (200, 30, 30)).save(path)
        Image.new("RGB", (64, 64), (200, 30, 30)).save(path.with_name(f"source-{path.name}"))
    text = write_pictures(experiment, rows).read_text()
    columns = 3 if "->" in caption else 2
    assert columns * 192 < Image.open(tmp_path / "t-sds.png").width < (columns + 1) * 192
    assert "![SDS](t-sds.png)" in text and "![curves](t-curves.png)" in text
    assert "4 of 4 pictures" in text and "\n\nWhy.\n\n" in text
    assert "| all: reward minus sds p below 0.01 | +0.0 [-84.2, +84.2], p = 1 | **no** |" in text
    experiment.picture(*rows[0].key).unlink()
    assert "![SDS](t-sds.png)" in write_pictures(experiment, rows).read_text(), "it is kept"
