"""The folder must also run in an upstream checkout: only names that exist there, gate included."""

import ast
import importlib.util
from pathlib import Path

import pytest

import threestudio

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
}
"""What upstream has of the names we use (threestudio 0.2.3)."""

GUARDED = {"threestudio.utils.errors", "threestudio.utils.random"}
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
        "sds-objective",
        "reward-model-clip",
        "reward-model-python",
        "reward-sds-guidance",
        "stable-diffusion-guidance",
        "mvdream-multiview-diffusion-guidance",
        *(f"reward-strategy-{n}" for n in ("none", "min-max", "best", "softmax", "random", "mean")),
    }
    assert names <= set(threestudio.__modules__)
