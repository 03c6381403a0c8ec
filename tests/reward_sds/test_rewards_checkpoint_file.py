"""Weights in one file: what is found, what is verified, what is refused."""

import hashlib

import pytest
import torch

from tests.helpers.doubles import extension
from tests.helpers.tiny_models import damage

files = extension("rewards.checkpoint_file")
UserError = extension("errors").UserError

KEY = "system.guidance.reward_model.head_path"
SUM_KEY = "system.guidance.reward_model.head_sha256"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "head.pth"
    torch.save({"weight": torch.arange(3.0), "bias": torch.ones(1)}, path)
    return path


def faults(path, sha256=""):
    return files.file_faults(str(path), sha256, KEY, "Download https://a.b/head.pth")


def test_a_file_that_is_there_has_no_faults(file, monkeypatch):
    assert faults(file) == [] and faults(file, "0" * 64) == []
    monkeypatch.setenv("HOME", str(file.parent))
    assert faults("~/head.pth") == []
    assert files.load_state("~/head.pth", "", KEY)["bias"] == 1


def test_a_missing_file_is_explained_with_its_source(tmp_path):
    (unset,) = faults("")
    assert f"`{KEY}` is not set. Download https://a.b/head.pth, and set `{KEY}`" in unset
    (missing,) = faults(tmp_path / "no.pth")
    assert "no.pth', but there is no such file (looked in" in missing
    assert f"Download https://a.b/head.pth, and set `{KEY}`" in missing


def test_a_checksum_that_is_none_is_explained(file):
    (fault,) = faults(file, "abc")
    assert f"`{SUM_KEY}` is 'abc', but a SHA-256 checksum has 64 hexadecimal digits" in fault


def test_the_checksum_is_verified(file):
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert files.load_state(str(file), right.upper(), KEY)["weight"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=f"checksum {right}, but `{SUM_KEY}` is {'0' * 64}"):
        files.load_state(str(file), "0" * 64, KEY)


def test_the_state_of_a_training_checkpoint_is_opened(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"a": torch.zeros(2)}}, tmp_path / "last.pt")
    assert list(files.load_state(str(tmp_path / "last.pt"), "", KEY)) == ["a"]


def test_a_damaged_file_is_one_message(file):
    damage(file)
    with pytest.raises(UserError, match=f"head.pth' cannot be read: .*Download it .* set `{KEY}`"):
        files.load_state(str(file), "", KEY)


class Payload:
    """Stands for an object that would run code when it is read."""


def test_a_file_with_objects_is_refused(tmp_path):
    torch.save({"weight": Payload()}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        files.load_state(str(tmp_path / "head.pth"), "", KEY)


@pytest.mark.parametrize("content", [[1, 2], {"weight": 3.0}, {"state_dict": 1}])
def test_a_file_of_another_kind_is_explained(content, tmp_path):
    torch.save(content, tmp_path / "head.pth")
    with pytest.raises(UserError, match=f"not a dictionary of tensors, so `{KEY}`"):
        files.load_state(str(tmp_path / "head.pth"), "", KEY)


def test_differences_of_names_are_listed():
    assert files.name_differences("ab", "ab") == ""
    assert files.name_differences("bcd", "ab") == "missing a; unexpected c, d"
    assert files.name_differences("", "abcdefg") == "missing a, b, c, d and 3 more"
