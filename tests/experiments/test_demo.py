"""The demo's words and picture, without training."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image

import demo
from tests.end_to_end import tiny_world
from tests.experiments.samples import ROW

ROOT = Path(__file__).resolve().parents[2]


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


def test_a_folder_of_somebody_else_is_refused_and_left_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "prepare", lambda threads: None)  # it changes folder and environment
    (tmp_path / "comparison.png").write_bytes(b"a holiday")
    assert demo.main(["--output", str(tmp_path), "--caption", "a red cube"]) == 2
    assert "not of this demo" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["comparison.png"]


def test_an_earlier_demo_is_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "new"
    assert demo.renew(folder) and demo.renew(folder)
    (folder / "runs/baseline").mkdir(parents=True)
    for name in ("baseline.log", "RewardSDS.json", "RewardSDS.mp4", "comparison.png", "mine.txt"):
        (folder / name).write_bytes(b"")
    assert demo.renew(folder)
    assert sorted(os.listdir(folder)) == sorted([demo.MARKER, "mine.txt"])


CHILD = """
import sys
from types import SimpleNamespace

sys.path[:0] = {paths!r}
import demo, plan, trial

demo.CONFIGS["RewardSDS"] = {config!r}
demo.EVALUATION = plan.Evaluation(reward={{"pretrained_model_name_or_path": {reward!r}}}, size=16)
verdict = SimpleNamespace(shape_ok=True, color_ok=True, relation_ok=False, text="no judge here")
trial.judge_views = lambda *args: verdict
sys.exit(demo.main())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # two processes that import everything, perhaps on a busy machine
def test_both_methods_train_in_processes_of_their_own(tmp_path, monkeypatch):
    """Tiny models; the judge is replaced, everything else is the demo's."""
    monkeypatch.chdir(ROOT)
    world = tiny_world.save_world(tmp_path / "world")
    config = OmegaConf.load(demo.CONFIGS["RewardSDS"])
    config.system.guidance.reward_model.pretrained_model_name_or_path = world["reward"]
    OmegaConf.save(config, tmp_path / "reward.yaml")
    plain = OmegaConf.to_container(OmegaConf.load(demo.CONFIGS["baseline"]))
    own = ("exp_root_dir=", "system.prompt_processor.prompt=", "trainer.max_steps=")
    small = [o for o in tiny_world.overrides(plain, world, tmp_path) if not o.startswith(own)]
    small += ["trainer.max_steps=2", "trainer.enable_progress_bar=true"]
    script = tmp_path / "child.py"
    paths = [str(Path(demo.__file__).parent), str(ROOT)]
    config = str(tmp_path / "reward.yaml")
    script.write_text(CHILD.format(paths=paths, reward=world["reward"], config=config))
    monkeypatch.setattr(demo, "__file__", str(script))
    monkeypatch.setattr(demo, "REFRESH_SECONDS", 0.05)
    folder = tmp_path / "demo"
    assert demo.renew(folder)
    args = demo._parse_arguments(["--threads", "1", "--output", str(folder), *small])
    failed = demo.train_both(args, folder)
    assert failed == [], [(folder / f"{method}.log").read_text()[-2000:] for method in failed]
    text = demo.summary(args.caption, args.seed, folder)
    assert (folder / "comparison.png").is_file() and text.count("relation wrong") == 2
    assert sorted(path.name for path in folder.glob("*.mp4")) == ["RewardSDS.mp4", "baseline.mp4"]
    assert "Testing" in demo.progress(folder / "baseline.log")


def test_a_child_that_left_no_result_has_failed(tmp_path, monkeypatch):
    """Lightning answers SIGTERM with exit code 0."""
    monkeypatch.setattr(
        demo, "watch", lambda children, folder: [c.wait() for c in children.values()]
    )
    monkeypatch.setattr(demo, "__file__", os.devnull)  # an empty script
    args = demo._parse_arguments([])
    assert demo.train_both(args, tmp_path) == list(demo.CONFIGS)
