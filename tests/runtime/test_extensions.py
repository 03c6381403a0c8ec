"""Loading of `custom/`: names with hyphens, failures, idempotence."""

import sys
from pathlib import Path

import pytest

import threestudio
from threestudio import registry
from threestudio.extensions import load_extensions

GOOD = """
import threestudio
from . import part
LOADED = part.LOADED
LOADED.append(1)

@threestudio.register("{name}-part")
class Part:
    pass
"""


@pytest.fixture
def root(tmp_path: Path):
    """A folder of extensions whose imports are undone afterwards."""
    threestudio.load_builtin_components()
    state, modules = registry.snapshot(), set(sys.modules)
    yield tmp_path / "custom"
    registry.restore(state)
    registry.remember_import_failure("broken-one", None)
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(root: Path, name: str, source: str) -> None:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(source)
    (folder / "part.py").write_text("LOADED = []\n")


def test_folder_with_hyphens_is_a_package_and_is_imported_once(root: Path):
    write(root, "good-one", GOOD.format(name="good"))
    first, second = load_extensions(str(root)), load_extensions(str(root))
    assert threestudio.find("good-part").__module__ == "good-one"
    assert sys.modules["good-one"].LOADED == [1]
    assert first == second and first["good-one"].error is None


def test_failure_is_remembered_undone_and_does_not_stop_the_others(root: Path):
    write(root, "broken-one", GOOD.format(name="broken") + "\nraise RuntimeError('no such gadget')")
    write(root, "good-one", GOOD.format(name="good"))
    reports = load_extensions(str(root))
    assert reports["broken-one"].error == "RuntimeError: no such gadget"
    assert threestudio.find("good-part")
    with pytest.raises(ValueError, match="'broken-one', which failed to import.*no such gadget$"):
        threestudio.find("broken-part")


def test_disabled_hidden_and_other_files_are_skipped(root: Path):
    write(root, "old_disabled", "raise RuntimeError")
    write(root, "__pycache__", "raise RuntimeError")
    (root / "notes.txt").write_text("text")
    (root / "data").mkdir()
    assert load_extensions(str(root)) == {}


def test_no_folder_is_no_error(tmp_path: Path):
    assert load_extensions(str(tmp_path / "none")) == {}
