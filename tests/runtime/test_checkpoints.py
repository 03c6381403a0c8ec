"""Checkpoint files: whole or old, plain, and clear when they cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from threestudio.utils.checkpoints import (
    read_checkpoint,
    remove_partial_files,
    write_checkpoint,
)
from threestudio.utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
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


def test_damaged_numbers_are_found_by_their_checksum(tmp_path: Path):
    """torch alone reads them as they are."""
    path = tmp_path / "last.ckpt"
    write_checkpoint({**STATE, "state_dict": {"w": torch.ones(10_000)}}, path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = bytes(4000)
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["state_dict"]["w"].min() == 0
    with pytest.raises(CheckpointError, match="it is damaged .a checksum is wrong"):
        read_checkpoint(path)


def test_a_folder_names_the_checkpoint_in_it(tmp_path: Path):
    """That of the newest run, and `last.ckpt` before others."""
    folders = [tmp_path / "name" / run / "ckpts" for run in ("older", "newer")]
    for age, folder in enumerate(reversed(folders)):
        for name in ("last.ckpt", "epoch=0-step=5.ckpt"):
            write_checkpoint(STATE, folder / name)
            os.utime(folder / name, (1000 - age, 1000 - age))
    last = folders[1] / "last.ckpt"
    for folder in (tmp_path, tmp_path / "name", folders[1].parent, folders[1]):
        with pytest.raises(CheckpointError, match=f"is a folder.* Did you mean {last}\\?"):
            read_checkpoint(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="is a folder.* There is no checkpoint in it"):
        read_checkpoint(tmp_path / "empty")


def test_a_missing_file_and_a_foreign_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "README.md").write_text("# Read me")
    with pytest.raises(CheckpointError, match="it is not a checkpoint, which would be a zip"):
        read_checkpoint(tmp_path / "README.md")
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


KILLED_WRITER = """
import os, random, signal, sys, time
import torch
from threestudio.utils.checkpoints import read_checkpoint, write_checkpoint

path, rounds = sys.argv[1], int(sys.argv[2])

def write_forever():
    step = 0
    while True:
        step += 1
        weights = {"w": torch.full((200_000,), float(step))}
        write_checkpoint({"state_dict": weights, "epoch": 0, "global_step": step}, path)

write_checkpoint({"state_dict": {"w": torch.zeros(1)}, "epoch": 0, "global_step": 0}, path)
for round in range(rounds):
    before = os.stat(path).st_mtime_ns
    child = os.fork()
    if child == 0:
        write_forever()
    while os.stat(path).st_mtime_ns == before:
        time.sleep(0.001)
    time.sleep(random.Random(round).uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = read_checkpoint(path)
    assert (found["state_dict"]["w"] == found["global_step"]).all()
print("written", found["global_step"])
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_file(tmp_path: Path):
    """Each round kills a process that does nothing but write, 0 to 30 ms after its first file."""
    command = [sys.executable, "-c", KILLED_WRITER, str(tmp_path / "last.ckpt"), "20"]
    one = {**os.environ, "OMP_NUM_THREADS": "1"}  # a forked process has no OpenMP threads
    out = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=one)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("written") and not out.stdout.endswith(" 0\n")
    remove_partial_files(tmp_path)
    assert os.listdir(tmp_path) == ["last.ckpt"]
