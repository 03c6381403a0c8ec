"""The folder must also run in an upstream checkout: only names that exist there, gate included."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import threestudio
from tests.helpers import one_step, tiny_models

FOLDER = Path(__file__).resolve().parents[2] / "custom" / "threestudio-reward-sds"
FILES = [
    *FOLDER.glob("*.py"),
    *(
        file
        for role in ("priors", "objectives", "rewards")
        for file in (FOLDER / role).glob("*.py")
    ),
]
UPSTREAM = {
    "threestudio.utils.base": {"BaseObject", "BaseModule"},
    "threestudio.utils.misc": {"C", "get_rank"},
    "threestudio.utils.ops": {"perpendicular_component"},
}
"""What upstream has of the names we use (threestudio 0.2.3)."""

GUARDED = {
    "threestudio.utils.errors",
    "threestudio.utils.pictures",
    "threestudio.utils.random",
}
"""Imported in a `try` with a replacement."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_names_of_upstream_are_imported(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module.startswith("threestudio") and node.module not in GUARDED:
                assert {alias.name for alias in node.names} <= UPSTREAM[node.module]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name == "threestudio" or not alias.name.startswith("threestudio")
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "threestudio":
            assert node.attr in {"register", "find", "__modules__", "__version__"}


def test_there_are_files_to_check():
    assert len(FILES) > 20


def test_an_old_threestudio_is_refused(monkeypatch):
    monkeypatch.setattr(threestudio, "__version__", "0.1.9")
    spec = importlib.util.spec_from_file_location("old-check", FOLDER / "__init__.py")
    with pytest.raises(ValueError, match="needs threestudio 0.2.0 or later, found 0.1.9"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_every_component_of_the_table_is_registered():
    names = {
        "stable-diffusion-prior",
        "mvdream-prior",
        "deep-floyd-prior",
        *(f"{n}-objective" for n in ("sds", "vsd", "dds", "bridge")),
        *(f"reward-model-{n}" for n in ("clip", "pick-score", "hps", "aesthetic")),
        *(f"reward-model-{n}" for n in ("image-reward", "composite", "python")),
        "reward-sds-guidance",
        "stable-diffusion-guidance",
        "mvdream-multiview-diffusion-guidance",
        "deep-floyd-guidance",
        *(f"reward-strategy-{n}" for n in ("none", "min-max", "best", "softmax", "random", "mean")),
    }
    assert names <= set(threestudio.__modules__)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reward-sds-guidance", "reward-vsd-guidance"])
def test_a_step_under_upstreams_api_equals_the_step_here(name, tmp_path, monkeypatch):
    """A stand-in with upstream's names and nothing else, in a process of its own; bit for bit."""
    monkeypatch.setattr("threestudio.utils.random._run_seed", 0)
    prior = tiny_models.save_diffusion(tmp_path / "prior")
    reward = tiny_models.save_clip(tmp_path / "reward")
    width = tiny_models.TEXT_WIDTH
    api = Path(one_step.__file__).parent / "upstream_api"
    command = [sys.executable, one_step.__file__, str(api), name, prior, reward, str(width)]
    there = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    found = json.loads(there.stdout.splitlines()[-1])
    here = one_step.take_step(name, prior, reward, width)
    assert found == here
    assert here["candidates"] == 4 and any(here["gradient"])
    if name == "reward-vsd-guidance":
        outer = [values for key, values in here["adapter"].items() if "lora_B" in key]
        assert outer and all(map(any, outer)), "the inner half has no gradient in a first step"
        assert here["loss_vsd"] > 0 and here["loss_lora"] > 0
