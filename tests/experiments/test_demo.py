"""The demo's words and picture, without training."""

import dataclasses
import json
import os

from PIL import Image

import demo
from tests.experiments.samples import ROW


def test_summary_names_every_file_and_both_verdicts(tmp_path):
    for method, relation in (("baseline", False), ("RewardSDS", True)):
        row = dataclasses.replace(ROW, method=method, color_ok=True, relation_ok=relation)
        (tmp_path / f"{method}.json").write_text(json.dumps(dataclasses.asdict(row)))
        Image.new("RGB", (256, 64)).save(tmp_path / f"{method}-views.png")
        (tmp_path / f"{method}.mp4").write_bytes(b"")
    text = demo.summary("a red cube under a blue cone", 0, tmp_path)
    for name in ("comparison.png", "baseline.mp4", "RewardSDS.mp4"):
        assert str(tmp_path / name) in text
    assert "relation wrong" in text and "relation right" in text
    assert Image.open(tmp_path / "comparison.png").size[0] > 3 * 256


def test_progress_is_the_newest_bar(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("loading weights\n")
    assert demo.progress(log) == "loading"
    log.write_text(
        "\rTraining:   1%|#  | 1/200 [0:01, 2it/s]\rTraining:   1%|#  | 2/200 [0:02, 2it/s]\n"
    )
    with log.open("a") as file:
        file.write("Loading weights: 100%|##| 142/142 [0:00, 9it/s]\n")
    assert demo.progress(log) == "Training 2/200 [0:02, 2it/s]"


def test_a_child_that_left_no_result_has_failed(tmp_path, monkeypatch):
    """Lightning answers SIGTERM with exit code 0."""
    monkeypatch.setattr(
        demo, "watch", lambda children, folder: [c.wait() for c in children.values()]
    )
    monkeypatch.setattr(demo, "__file__", os.devnull)  # an empty script
    args = demo._parse_arguments([])
    assert demo.train_both("a red cube under a blue cone", args, tmp_path) == list(demo.CONFIGS)
