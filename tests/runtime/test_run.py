"""Whole runs of the toy experiment: the run folder, resuming, and failures in the middle."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.runtime import toys
from tests.runtime.comparing import assert_equal
from threestudio import run as run_module
from threestudio.run import run
from threestudio.utils.checkpoints import read_checkpoint
from threestudio.utils.errors import CheckpointError, ConfigError, NonFiniteError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run in an empty folder: no git, no `custom/`."""
    monkeypatch.chdir(tmp_path)


def rows(trial_dir: str) -> list[dict[str, str]]:
    """Read the logged training steps of the newest version."""
    path = sorted(Path(trial_dir).glob("csv_logs/*/metrics.csv"))[-1]
    with path.open() as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def test_run_folder_is_complete(tmp_path: Path):
    result = run(toys.write(tmp_path), command="python launch.py --train")
    folder = Path(result.trial_dir)
    assert folder == tmp_path / "out/toy/a_cube"
    for name in (
        "ckpts/last.ckpt",
        "ckpts/epoch=0-step=6.ckpt",
        "configs/parsed.yaml",
        "configs/raw.yaml",
        "cmd.txt",
        "versions.txt",
        "csv_logs/version_0/metrics.csv",
        "save/it4-0.png",
        "save/it4-1.png",
        "save/it4-candidates.png",
        "save/it6-test/0.png",
        "save/it6-test.mp4",
    ):
        assert (folder / name).is_file(), name
    assert list(folder.glob("tb_logs/version_0/events*"))
    assert (folder / "cmd.txt").read_text() == "python launch.py --train\n"
    versions = (folder / "versions.txt").read_text()
    assert f"torch {torch.__version__.split('+')[0]}" in versions and "threads " in versions
    assert [row["step"] for row in rows(result.trial_dir)] == ["0", "1", "2", "3", "4", "5"]


def test_checkpoints_hold_plain_containers(tmp_path: Path):
    result = run(toys.write(tmp_path))
    for path in Path(result.trial_dir, "ckpts").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        assert checkpoint["global_step"] == 6
        betas = checkpoint["optimizer_states"][0]["param_groups"][0]["betas"]
        assert type(betas) in (list, tuple)


def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path: Path):
    whole = run(toys.write(tmp_path), ["tag=whole", "trainer.max_steps=7"])
    half = run(toys.write(tmp_path), ["tag=half", "trainer.max_steps=4"])
    last = f"{half.trial_dir}/ckpts/last.ckpt"
    parsed = f"{half.trial_dir}/configs/parsed.yaml"
    torch.manual_seed(99)  # nothing may depend on the global generator
    rest = run(parsed, [f"resume={last}", "trainer.max_steps=7"])
    assert rest.trial_dir == half.trial_dir
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, rest.system.state_dict()[name]), name
    optimizers = [
        read_checkpoint(f"{result.trial_dir}/ckpts/last.ckpt")["optimizer_states"]
        for result in (whole, rest)
    ]
    assert_equal(optimizers[0], optimizers[1], "optimizer_states")
    assert [r["train/loss"] for r in rows(rest.trial_dir)] == [
        r["train/loss"] for r in rows(whole.trial_dir)
    ][4:]
    assert rest.system.geometry.steps[:1] == [4]


def test_validate_and_test_use_the_step_of_the_checkpoint(tmp_path: Path):
    trained = run(toys.write(tmp_path))
    save = Path(trained.trial_dir, "save")
    for path in save.rglob("*.*"):
        path.unlink()
    resume = f"resume={trained.trial_dir}/ckpts/last.ckpt"
    parsed = f"{trained.trial_dir}/configs/parsed.yaml"
    result = run(parsed, [resume], mode="validate")
    assert (save / "it6-0.png").is_file() and not (save / "it6-test.mp4").exists()
    for name, value in trained.system.state_dict().items():
        assert torch.equal(value, result.system.state_dict()[name])
    run(parsed, [resume], mode="test")
    assert (save / "it6-test.mp4").is_file()


def test_system_weights_start_a_new_run_at_step_zero(tmp_path: Path):
    trained = run(toys.write(tmp_path))
    weights = f"system.weights={trained.trial_dir}/ckpts/last.ckpt"
    result = run(toys.write(tmp_path), ["tag=b", weights], mode="validate")
    assert torch.equal(
        trained.system.state_dict()["geometry.color.weight"],
        result.system.state_dict()["geometry.color.weight"],
    )
    assert Path(result.trial_dir, "save/it0-0.png").is_file()


@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        ({"renderer": {"nan_at": 3}}, NonFiniteError, "The render is NaN or infinite at step 3"),
        (
            {"renderer": {"nan_gradient_at": 3}},
            NonFiniteError,
            "gradient of geometry.color.*step 3",
        ),
        ({"guidance": {"fail_at": 3}}, ValueError, "reward of candidate 2 is NaN at step 3"),
    ],
)
def test_nan_in_the_middle_saves_the_state_before_it(
    tmp_path: Path, block: dict[str, Any], error: type, message: str
):
    good = run(toys.write(tmp_path), ["tag=good", "trainer.max_steps=3"])
    with pytest.raises(error, match=message) as caught:
        run(toys.write(tmp_path, **block))
    folder = tmp_path / "out/toy/a_cube/ckpts"
    assert f"{folder}/nan-step3.ckpt" in caught.value.__notes__[0]
    state = read_checkpoint(folder / "nan-step3.ckpt")["state_dict"]
    for name, value in good.system.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 2


def test_the_state_saved_at_a_failure_can_be_resumed(tmp_path: Path):
    whole = run(toys.write(tmp_path), ["tag=whole"])
    with pytest.raises(ValueError):
        run(toys.write(tmp_path, guidance={"fail_at": 3}))
    failed = tmp_path / "out/toy/a_cube"
    rest = run(
        f"{failed}/configs/parsed.yaml",
        [f"resume={failed}/ckpts/nan-step3.ckpt", "system.guidance.fail_at=-1"],
    )
    for name, value in whole.system.state_dict().items():
        assert torch.equal(value, rest.system.state_dict()[name]), name


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["resume=none.ckpt"], CheckpointError, "'none.ckpt' does not exist"),
        (["resume=bad.ckpt"], CheckpointError, "damaged or incomplete"),
        (["system.geometry.raduis=1"], ConfigError, "Did you mean `radius`"),
        (["system.geometry_type=toy-geometri"], ConfigError, "Did you mean 'toy-geometry'"),
    ],
)
def test_mistakes_are_reported_before_anything_is_made(
    tmp_path: Path, overrides: list[str], error: type, message: str
):
    Path("bad.ckpt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(error, match=message):
        run(toys.write(tmp_path), overrides)
    assert not (tmp_path / "out").exists()


def test_a_failure_while_building_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(self: Any) -> None:
        raise OSError("no such model folder")

    monkeypatch.setattr(toys.ToyGuidance, "configure", fail)
    with pytest.raises(OSError):
        run(toys.write(tmp_path))
    assert not (tmp_path / "out/toy").exists()


def test_a_checkpoint_of_another_scene_is_refused(tmp_path: Path):
    trained = run(toys.write(tmp_path))
    other = toys.write(tmp_path, geometry_type="toy-empty", geometry={})
    with pytest.raises(CheckpointError, match="does not fit.*geometry.color"):
        run(other, ["tag=b", f"resume={trained.trial_dir}/ckpts/last.ckpt"])


def test_unknown_mode():
    with pytest.raises(ConfigError, match="Unknown mode 'tset'"):
        run("any.yaml", mode="tset")


def test_resuming_keeps_what_the_run_folder_has(tmp_path: Path):
    config = toys.write(tmp_path)
    first = Path(run(config, ["trainer.max_steps=2"], command="one").trial_dir)
    raw = (first / "configs/raw.yaml").read_text()
    (first / "ckpts/last.ckpt.123.tmp").write_bytes(b"half a checkpoint")
    resume = f"resume={first}/ckpts/last.ckpt"
    run(f"{first}/configs/parsed.yaml", [resume, "trainer.max_steps=4"], command="two")
    assert (first / "configs/raw.yaml").read_text() == raw
    assert (first / "cmd.txt").read_text() == "one\n\ntwo\n"
    assert (first / "versions.txt").read_text().count("python ") == 2
    parsed = OmegaConf.load(first / "configs/parsed.yaml")
    assert parsed.trainer.max_steps == 4
    assert parsed.resume is None, "the next run says itself what it continues"
    assert not list(first.rglob("*.tmp"))
    run(config, ["trainer.max_steps=2"], command="three")
    assert (first / "cmd.txt").read_text() == "three\n", "a fresh run writes its own notes"


def test_several_yamls_are_one_run_and_raw_yaml_repeats_it(tmp_path: Path):
    config, over = toys.write(tmp_path), tmp_path / "over.yaml"
    over.write_text("trainer: {max_steps: 2}\nsystem: {loss: {lambda_sds: 3.0}}\n")
    folder = Path(run([config, str(over)], ["system.loss.lambda_sparsity=0.5"]).trial_dir)
    assert [row["step"] for row in rows(str(folder))] == ["0", "1"]
    loss = OmegaConf.load(folder / "configs/parsed.yaml").system.loss
    assert (loss.lambda_sds, loss.lambda_sparsity) == (3.0, 0.5)
    raw = (folder / "configs/raw.yaml").read_text()
    assert "every_n_train_steps: ${trainer.max_steps}" in raw
    again = run(str(folder / "configs/raw.yaml"), ["name=again"])
    loss = again.system.cfg.loss
    assert (loss.lambda_sds, loss.lambda_sparsity) == (3.0, 0.0), "files, not overrides"


def test_a_longer_continuation_names_both_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(run_module, "warn", said.append)
    guidance = {"trainer_max_steps": "${trainer.max_steps}"}
    first = run(toys.write(tmp_path, guidance=guidance), ["trainer.max_steps=2"])
    parsed, resume = f"{first.trial_dir}/configs/parsed.yaml", f"{first.trial_dir}/ckpts/last.ckpt"
    run(parsed, [f"resume={resume}", "trainer.max_steps=4"])
    assert len(said) == 1
    assert "trainer.max_steps=4 system.guidance.trainer_max_steps=4" in said[0]
    both = ["trainer.max_steps=6", "system.guidance.trainer_max_steps=6"]
    run(parsed, [f"resume={resume}", *both])
    assert len(said) == 1


def test_where_the_results_are_is_said_in_every_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(run_module, "info", said.append)
    first = run(toys.write(tmp_path), ["exp_root_dir=out", "trainer.max_steps=2"])
    parsed, resume = f"{first.trial_dir}/configs/parsed.yaml", f"{first.trial_dir}/ckpts/last.ckpt"
    for mode in ("validate", "test"):
        run(parsed, [f"resume={resume}"], mode=mode)
    results, *looks = said
    assert results == "Results are saved to out/toy/a_cube"
    assert looks == ["Saved in out/toy/a_cube/save"] * 2


def test_a_finished_run_says_that_nothing_is_left_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    monkeypatch.setattr(run_module, "warn", said.append)
    first = run(toys.write(tmp_path), ["trainer.max_steps=2"])
    parsed, resume = f"{first.trial_dir}/configs/parsed.yaml", f"{first.trial_dir}/ckpts/last.ckpt"
    run(parsed, [f"resume={resume}"], mode="test")
    assert said == []
    run(parsed, [f"resume={resume}"])
    assert len(said) == 1 and "already at step 2 of 2. Give trainer.max_steps=" in said[0]


def test_the_first_interrupt_ends_the_training_with_a_checkpoint_and_its_test(tmp_path: Path):
    former = signal.getsignal(signal.SIGINT)
    result = run(toys.write(tmp_path, guidance={"interrupt_at": 3}), ["trainer.max_steps=50"])
    assert result.interrupted
    assert read_checkpoint(f"{result.trial_dir}/ckpts/last.ckpt")["global_step"] == 4
    assert Path(result.trial_dir, "save/it4-test.mp4").is_file()
    assert signal.getsignal(signal.SIGINT) is former
    assert not run(toys.write(tmp_path), ["tag=whole"]).interrupted


def test_the_second_interrupt_quits(tmp_path: Path):
    guidance = {"interrupt_at": 3, "interrupts": 2}
    former = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            run(toys.write(tmp_path, guidance=guidance))
    finally:
        signal.signal(signal.SIGINT, former)  # Lightning ignores the signal once it shuts down
    assert not list(tmp_path.rglob("*.mp4"))


def test_sigterm_saves_and_does_nothing_else(tmp_path: Path):
    former = signal.getsignal(signal.SIGTERM)
    guidance = {"interrupt_at": 3, "signal": "SIGTERM"}
    result = run(toys.write(tmp_path, guidance=guidance), ["trainer.max_steps=50"])
    assert result.terminated
    assert read_checkpoint(f"{result.trial_dir}/ckpts/last.ckpt")["global_step"] == 4
    assert not list(tmp_path.rglob("*.mp4"))
    assert signal.getsignal(signal.SIGTERM) is former


def test_export_saves_what_the_exporter_returns_under_the_step_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    logged: list[str] = []
    monkeypatch.setattr(run_module, "info", logged.append)
    first = run(toys.write(tmp_path, exporter_type="toy-exporter"), ["trainer.max_steps=3"])
    parsed, resume = f"{first.trial_dir}/configs/parsed.yaml", f"{first.trial_dir}/ckpts/last.ckpt"
    Path(first.trial_dir, "save/it3-test.mp4").unlink()
    logged.clear()
    run(parsed, [f"resume={resume}"], mode="export")
    assert logged == [f"Saved in {first.trial_dir}/save/it3-export"]
    exported = json.loads(Path(first.trial_dir, "save/it3-export/colour.json").read_text())
    assert exported == pytest.approx(first.system.geometry.color.bias.tolist())
    assert not Path(first.trial_dir, "save/it3-test.mp4").exists()
    run(parsed, [f"resume={resume}", "system.exporter.save_video=true"], mode="export")
    assert Path(first.trial_dir, "save/it3-test.mp4").is_file()
    with pytest.raises(ValueError, match="'toy-exporter' asks for save_hologram"):
        run(parsed, [f"resume={resume}", "system.exporter.save_type=hologram"], mode="export")


def test_a_look_at_what_was_not_trained_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    warnings: list[str] = []
    monkeypatch.setattr(run_module, "warn", warnings.append)
    path = toys.write(tmp_path)
    run(path, mode="validate")
    assert warnings[0].endswith("resume=<run>/ckpts/last.ckpt")
    trained = run(path, ["trainer.max_steps=1"])
    last = f"{trained.trial_dir}/ckpts/last.ckpt"
    run(f"{trained.trial_dir}/configs/parsed.yaml", mode="validate")
    assert len(warnings) == 2 and warnings[1].endswith(f"resume={last}")
    run(path, [f"resume={last}"], mode="validate")
    run(path, [f"system.weights={last}"], mode="validate")
    assert len(warnings) == 2


def test_an_unusable_output_folder_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match="'.*file/runs/toy/a_cube' cannot be made.*exp_root_dir"):
        run(toys.write(tmp_path), [f"exp_root_dir={tmp_path}/file/runs"])
    with pytest.raises(ConfigError, match="exp_root_dir"):
        run(toys.write(tmp_path), [f"exp_root_dir={tmp_path}/file"])


def test_what_lightning_refuses_is_a_message_before_models_are_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(toys.ToyGuidance, "configure", lambda self: pytest.fail("was built"))
    with pytest.raises(ConfigError, match="`trainer` block cannot be used: .*strategy"):
        run(toys.write(tmp_path), ["trainer.strategy=none-such"])
    assert not (tmp_path / "out/toy").exists()


def test_progress_bar_shows_loss_and_reward(tmp_path: Path, capfd: pytest.CaptureFixture):
    run(toys.write(tmp_path), ["trainer.enable_progress_bar=true"])
    shown = capfd.readouterr()
    text = shown.out + shown.err
    assert "Training: 100%" in text and "6/6" in text
    assert "loss=" in text and "reward=-1.5" in text and "v_num" not in text
