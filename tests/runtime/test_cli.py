"""The command line: flags, exit codes, and which errors keep their traceback."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import threestudio.run
from threestudio import cli
from threestudio import run as run_module
from threestudio.utils.errors import ConfigError
from threestudio.utils.ops import get_activation

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Let the command line set variables of a copy."""
    copy = dict(os.environ)
    monkeypatch.setattr(cli.os, "environ", copy)
    return copy


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Replace the run by a note of how it was called; `tag=killed` stands for SIGTERM."""
    seen = []

    def run(path: str, overrides: list, **kwargs):
        seen.append((path, overrides, kwargs))
        return SimpleNamespace(terminated="tag=killed" in overrides)

    monkeypatch.setattr(threestudio.run, "run", run)
    return seen


def test_flags_and_overrides_may_be_mixed(calls: list, environment: dict[str, str]):
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    assert (
        cli.main(["a.b=1", "--config", "x.yaml", "--test", "prompt=a red cube", "--gpu", "1"]) == 0
    )
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    path, overrides, kwargs = calls[0]
    assert (path, overrides, kwargs["mode"]) == (["x.yaml"], ["a.b=1", "prompt=a red cube"], "test")
    assert "'prompt=a red cube'" in kwargs["command"]


def test_several_yamls_may_be_given_and_keep_their_order(calls: list):
    words = ["--config", "a.yaml", "b.yaml", "--train", "weights=x.yaml", "c.yml", "stray"]
    assert cli.main(words) == 0
    paths, overrides, _ = calls[0]
    assert paths == ["a.yaml", "b.yaml", "c.yml"]
    assert overrides == ["weights=x.yaml", "stray"]


def test_every_mode_is_a_flag_and_sigterm_is_an_exit_code(calls: list):
    for mode in run_module.MODES:
        assert cli.main(["--config", "x", f"--{mode}"]) == 0
    assert [kwargs["mode"] for _, _, kwargs in calls] == list(run_module.MODES)
    assert cli.main(["--config", "x", "--train", "tag=killed"]) == 143


def test_typecheck_finds_a_tensor_of_the_wrong_type():
    code = """
import sys, types
def run(*args, **kwargs):
    import torch
    from threestudio.models.materials.no_material import NoMaterial
    NoMaterial({}).export(torch.zeros(3, dtype=torch.long))
sys.modules["threestudio.run"] = types.SimpleNamespace(run=run)
from threestudio import cli
from threestudio import run as run_module
cli.main(["--config", "x", "--train", "--typecheck"])
"""
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "TypeCheckError" in out.stderr


@pytest.mark.parametrize(
    "argv", [["--train"], ["--config", "x"], ["--config", "x", "--train", "--test"]]
)
def test_wrong_flags_exit_with_two(argv: list[str], calls: list):
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2 and not calls


def test_help_needs_no_torch():
    code = (
        "import sys, threestudio.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "--config" in out.stdout and out.stdout.strip().endswith("False")


def raising(error: BaseException):
    """Return a stand-in for `run` that raises."""

    def run(*args, **kwargs):
        raise error

    return run


def test_user_errors_are_one_message(monkeypatch, capsys):
    error = ConfigError("the fix")
    error.add_note("where the state is")
    monkeypatch.setattr(threestudio.run, "run", raising(error))
    assert cli.main(["--config", "x", "--train"]) == 2
    assert capsys.readouterr().err.strip() == "Error: the fix\nwhere the state is"


def test_verbose_keeps_the_traceback(monkeypatch):
    monkeypatch.setattr(threestudio.run, "run", raising(ConfigError("the fix")))
    with pytest.raises(ConfigError):
        cli.main(["--config", "x", "--train", "--verbose"])


def test_an_error_that_our_code_raises_on_purpose_is_for_the_user():
    with pytest.raises(ValueError) as caught:
        get_activation("softplux")
    assert cli.is_for_user(caught.value)


def test_defects_keep_their_traceback(monkeypatch):
    with pytest.raises(ValueError) as caught:
        int("x")
    assert not cli.is_for_user(caught.value)
    with pytest.raises(TypeError) as inside:
        get_activation(3)
    assert not cli.is_for_user(inside.value)
    monkeypatch.setattr(threestudio.run, "run", raising(caught.value))
    with pytest.raises(ValueError):
        cli.main(["--config", "x", "--train"])


def test_a_wrong_config_exits_with_two_and_no_traceback():
    command = [sys.executable, "launch.py", "--config", "configs/none.yaml", "--train"]
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert out.returncode == 2
    assert "Config file 'configs/none.yaml' does not exist" in out.stderr
    assert "Traceback" not in out.stderr
