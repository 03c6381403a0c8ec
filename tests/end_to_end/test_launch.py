"""`launch.py` as a user runs it, on tiny random models: kill, resume, awkward prompts, messages.

Runs that are killed or resumed are processes of their own; one that is only compared with is made
in this one, which has imported everything.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.end_to_end import tiny_world
from tests.runtime.comparing import assert_equal
from threestudio.run import run
from threestudio.utils.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "custom/threestudio-reward-sds/configs/blocks-mvdream-reward-sds.yaml"
GAUSSIANS = ROOT / "custom/threestudio-3dgs/configs/blocks-gaussians-sds.yaml"

PATIENCE = 240
"""Seconds after which a process is taken to hang; imports alone take long on a busy machine."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny_world.save_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return working_folder(tmp_path)


def working_folder(path: Path) -> Path:
    """Put the extensions into a folder; caches and outputs stay in it."""
    (path / "custom").symlink_to(ROOT / "custom")
    return path


def environment() -> dict[str, str]:
    """Return that of a process with the threads of this one: sums depend on their number."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def command(config: Path, mode: str, overrides: list[str]) -> list[str]:
    return [sys.executable, str(ROOT / "launch.py"), "--config", str(config), mode, *overrides]


def launch(
    folder: Path, config: Path, mode: str, overrides: list[str]
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(config, mode, overrides),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )


def tiny(world: dict[str, str], tag: str, steps: int) -> list[str]:
    config = OmegaConf.to_container(OmegaConf.load(CONFIG))
    more = [f"trainer.max_steps={steps}", "use_timestamp=false", f"tag={tag}", "name=n"]
    return [*tiny_world.overrides(config, world, Path("out")), *more]


def kill_after(folder: Path, arguments: list[str], last: Path, step: int) -> int:
    """Run `launch.py` until its checkpoint has reached `step`, kill it, return the step it has."""
    with (folder / "killed.log").open("w") as log:
        process = subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, env=environment())
    deadline = time.monotonic() + PATIENCE
    try:
        while not (last.exists() and read_checkpoint(last)["global_step"] >= step):
            assert process.poll() is None, (folder / "killed.log").read_text()
            assert time.monotonic() < deadline, "no checkpoint came in time"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return read_checkpoint(last)["global_step"]


def test_kill_nine_then_resume_equals_the_uninterrupted_run(
    world: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    """Killed after the refresh of the occupancy at step 16, with another one at step 32.

    The two runs share nothing, not even the cache of the text embeddings.
    """
    steps, more = 40, ["trainer.val_check_interval=20", "system.guidance.sheet_every=20"]
    one, two = (working_folder(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    arguments = command(CONFIG, "--train", [*tiny(world, "run", steps), *more])
    last = one / "out/n/run/ckpts/last.ckpt"
    killed_at = kill_after(one, arguments, last, step=18)
    assert 18 <= killed_at <= 32

    resume = ["resume=out/n/run/ckpts/last.ckpt"]
    resumed = launch(one, one / "out/n/run/configs/parsed.yaml", "--train", resume)
    assert resumed.returncode == 0, resumed.stderr
    monkeypatch.chdir(two)
    run(str(CONFIG), [*tiny(world, "run", steps), *more])
    assert_same_end(one, two, steps)


def assert_same_end(one: Path, two: Path, steps: int) -> dict[str, Any]:
    """Compare the ends of two runs to the last bit; return their weights."""
    ends = [read_checkpoint(folder / "out/n/run/ckpts/last.ckpt") for folder in (one, two)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == steps
    assert_equal(ends[0]["state_dict"], ends[1]["state_dict"], "state_dict")
    assert_equal(ends[0]["optimizer_states"], ends[1]["optimizer_states"], "optimizer")
    return ends[0]["state_dict"]


def test_gaussians_killed_between_densifications_end_the_same(
    world: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
):
    """Densified at steps 12, 24 and 36 of 40, killed after the first and before the last."""
    config = OmegaConf.to_container(OmegaConf.load(GAUSSIANS))
    steps = 40
    overrides = [
        *tiny_world.overrides(config, world, Path("out")),
        *(f"trainer.max_steps={steps}", "use_timestamp=false", "tag=run", "name=n"),
        *("trainer.val_check_interval=20", "system.geometry.init_num_pts=100"),
        *("system.geometry.densification_interval=12", "system.geometry.densify_from_iter=12"),
        *("system.geometry.densify_grad_threshold=1e-6", "system.geometry.max_num=1000"),
    ]
    one, two = (working_folder(tmp_path_factory.mktemp(name)) for name in ("one", "two"))
    arguments = command(GAUSSIANS, "--train", overrides)
    last = one / "out/n/run/ckpts/last.ckpt"
    killed_at = kill_after(one, arguments, last, step=16)
    assert 16 <= killed_at < 37
    killed = read_checkpoint(last)["state_dict"]["geometry._xyz"]
    resume = ["resume=out/n/run/ckpts/last.ckpt"]
    resumed = launch(one, one / "out/n/run/configs/parsed.yaml", "--train", resume)
    assert resumed.returncode == 0, resumed.stderr
    monkeypatch.chdir(two)
    run(str(GAUSSIANS), overrides)
    assert len(assert_same_end(one, two, steps)["geometry._xyz"]) > len(killed) > 100


@pytest.mark.parametrize(
    "prompt",
    ["a red: cube/../\"ball\" 'x' 🤖.", "cube, " * 1700],
    ids=["slashes-quotes-emoji", "ten-thousand-characters"],
)
def test_awkward_prompts_train(world: dict[str, str], folder: Path, prompt: str):
    overrides = [text for text in tiny(world, "-", 1) if not text.startswith("tag=")]
    overrides.append(f"system.prompt_processor.prompt={prompt}")
    out = launch(folder, CONFIG, "--train", overrides)
    assert out.returncode == 0, out.stderr
    (run_folder,) = (folder / "out/n").iterdir()
    parsed = OmegaConf.load(run_folder / "configs/parsed.yaml")
    assert parsed.system.prompt_processor.prompt == prompt
    assert (run_folder / "save/it1-test.mp4").is_file()


def test_every_mistake_is_in_one_message(world: dict[str, str], folder: Path):
    mistakes = [
        "system.guidance.n_noises=3",
        "system.geometry.raduis=1",
        "system.guidance.guidance_scale=high",
        "system.renderer_type=nerf-volume-rendrer",
        "system.guidance.trainer_max_steps=null",
        "system.guidance.reward_duration=0.5",
        "system.guidance.ckpt_path=no/such/folder",
    ]
    out = launch(folder, CONFIG, "--train", [*tiny(world, "x", 1), *mistakes])
    assert out.returncode == 2 and "Traceback" not in out.stderr
    for part in (
        "`n_noises` is 3",
        "Did you mean `radius`",
        "guidance_scale",
        "Did you mean 'nerf-volume-renderer'",
        "trainer_max_steps",
        "no/such/folder",
    ):
        assert part in out.stderr
    assert not (folder / "out").exists()


def test_a_damaged_checkpoint_is_one_message(world: dict[str, str], folder: Path):
    (folder / "bad.ckpt").write_bytes(b"PK\x03\x04 the rest is missing")
    out = launch(folder, CONFIG, "--train", [*tiny(world, "x", 1), "resume=bad.ckpt"])
    assert out.returncode == 2 and "Traceback" not in out.stderr
    assert "'bad.ckpt' cannot be read: it is damaged" in out.stderr
