"""The package as an extension: its gate and its names."""

import importlib.util
from pathlib import Path

import pytest

import threestudio

FOLDER = Path(__file__).resolve().parents[2] / "custom" / "threestudio-3dgs"


def load():
    spec = importlib.util.spec_from_file_location("old-check", FOLDER / "__init__.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_an_old_threestudio_is_refused(monkeypatch):
    monkeypatch.setattr(threestudio, "__version__", "0.2.0")
    with pytest.raises(ValueError, match="needs threestudio 0.2.1 or later, found 0.2.0"):
        load()


@pytest.mark.parametrize("version", ["0.2.3", "0.1.0"])
def test_upstreams_threestudio_is_pointed_to_its_own_extension(monkeypatch, version):
    monkeypatch.delattr(threestudio, "IS_REWARD_SDS_RUNTIME")
    monkeypatch.setattr(threestudio, "__version__", version)
    with pytest.raises(ImportError, match="use upstream's own threestudio-3dgs with our guidance"):
        load()


def test_the_names_that_users_know_are_registered():
    assert {
        "gaussian-splatting",
        "gaussian-mesh-exporter",
        "diff-gaussian-rasterizer",
        "diff-gaussian-rasterizer-advanced",
        "diff-gaussian-rasterizer-background",
        "gaussian-splatting-system",
        "gaussian-splatting-mvdream-system",
    } <= set(threestudio.__modules__)
