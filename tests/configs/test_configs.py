"""Every committed YAML: right as it stands, and it trains, resumes and tests in this process."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.end_to_end import tiny_world
from threestudio.run import run
from threestudio.utils.config import merge_configs
from threestudio.utils.config_check import config_faults

ROOT = Path(__file__).resolve().parents[2]
FIRST_STAGES = {
    "magic3d-refine-sd": "magic3d-coarse-sd.yaml",
    "prolificdreamer-geometry": "sd21-nerf.yaml",
}
"""Second stages, and what they can start from."""
CONFIGS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("custom/*/configs/*.yaml")])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_world.save_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches and outputs out of the repository."""
    monkeypatch.chdir(tmp_path)


def tiny(path: Path, world: dict[str, str], out: Path) -> list[str]:
    return tiny_world.overrides(OmegaConf.to_container(OmegaConf.load(path)), world, out)


def losses(trial_dir: str) -> list[float]:
    path = sorted(Path(trial_dir).glob("csv_logs/*/metrics.csv"))[-1]
    with path.open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def started_from(path: Path, world: dict[str, str], out: Path) -> list[str]:
    """Return the override that a second stage needs: a checkpoint of a first one."""
    if path.stem not in FIRST_STAGES:
        return []
    first = ROOT / "configs" / FIRST_STAGES[path.stem]
    made = run(str(first), [*tiny(first, world, out), "trainer.max_steps=1"])
    return [f"system.geometry_convert_from={made.trial_dir}/ckpts/last.ckpt"]


def test_there_are_configs():
    assert len(CONFIGS) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_right_and_says_what_it_is(path: Path, world: dict[str, str], tmp_path: Path):
    paths = [text for text in tiny(path, world, tmp_path) if "pretrained" in text or "ckpt" in text]
    prompt = ["system.prompt_processor.prompt=a cube"]
    if path.stem in FIRST_STAGES:
        prompt.append("system.geometry_convert_from=null")
    assert config_faults(merge_to_plain(path, [*paths, *prompt])) == []
    header = path.read_text().split("\nname:")[0]
    for word in ("Reproduces:", "Command:", "Cost:"):
        assert word in header


def merge_to_plain(path: Path, overrides: list[str]) -> dict[str, Any]:
    return OmegaConf.to_container(merge_configs(str(path), cli_args=overrides))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_trains_resumes_tests_and_exports(path: Path, world: dict[str, str], tmp_path: Path):
    short = tiny(path, world, tmp_path / "out")
    short += started_from(path, world, tmp_path / "first")
    short += ["trainer.max_steps=4", "checkpoint.every_n_train_steps=2", "checkpoint.save_top_k=-1"]
    first = run(str(path), short)
    whole = {name: value.clone() for name, value in first.system.state_dict().items()}
    assert all(value.isfinite().all() for value in whole.values())
    parsed = f"{first.trial_dir}/configs/parsed.yaml"
    (halfway,) = Path(first.trial_dir, "ckpts").glob("*step=2.ckpt")
    saved = torch.load(halfway)["state_dict"]
    assert any(not torch.equal(value, whole[name]) for name, value in saved.items())
    second = run(parsed, [f"resume={halfway}"])
    resumed = second.system.state_dict()
    assert not [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
    assert len(losses(second.trial_dir)) == 2
    save = Path(second.trial_dir, "save")
    assert (save / "it4-test.mp4").is_file() and (save / "it4-0.png").is_file()
    if "reward" in path.stem:
        assert list(save.glob("*candidates.png"))
    (save / "it4-test.mp4").unlink()
    run(parsed, [f"resume={second.trial_dir}/ckpts/last.ckpt"], mode="test")
    assert (save / "it4-test.mp4").is_file()
    run(parsed, [f"resume={second.trial_dir}/ckpts/last.ckpt"], mode="export")
    assert (save / "it4-export/model.obj").is_file()
