"""Checkpoint files: whole or old, plain, and clear when they cannot be read."""

import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.utils.checkpoints import read_checkpoint, write_checkpoint
from threestudio.utils.errors import CheckpointError

STATE = {"state_dict": {"w": torch.ones(2)}, "epoch": 0, "global_step": 5}


def test_round_trip_turns_omegaconf_into_plain_containers(tmp_path: Path):
    path = tmp_path / "folder" / "last.ckpt"
    betas = OmegaConf.create({"betas": [0.9, 0.99]})
    write_checkpoint({**STATE, "optimizer_states": [{"param_groups": [betas]}]}, path)
    loaded = torch.load(path, weights_only=True)
    assert loaded["optimizer_states"] == [{"param_groups": [{"betas": [0.9, 0.99]}]}]
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(2))
    assert os.listdir(path.parent) == ["last.ckpt"]


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path):
    path = tmp_path / "last.ckpt"
    write_checkpoint(STATE, path)
    with pytest.raises(AttributeError):
        write_checkpoint({**STATE, "bad": lambda: None}, path)
    assert read_checkpoint(path)["global_step"] == 5
    assert os.listdir(tmp_path) == ["last.ckpt"]


@pytest.mark.parametrize("size", [0, 100, -10])
def test_a_damaged_file_is_one_clear_message_with_the_alternatives(tmp_path: Path, size: int):
    path, other = tmp_path / "last.ckpt", tmp_path / "epoch=0-step=5.ckpt"
    write_checkpoint(STATE, path)
    write_checkpoint(STATE, other)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="damaged or incomplete.*Other checkpoints.*step=5"):
        read_checkpoint(path)


def test_a_missing_file_and_a_foreign_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "last.ckpt")
    torch.save({"w": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        read_checkpoint(tmp_path / "other.ckpt")


class Payload:
    """Runs a function of the author's choice when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("hacked",))


def test_a_file_never_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.save({**STATE, "x": Payload()}, "evil.ckpt")
    with pytest.raises(CheckpointError, match="objects other than tensors"):
        read_checkpoint("evil.ckpt")
    assert not Path("hacked").exists()
