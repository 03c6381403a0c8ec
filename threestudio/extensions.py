"""Loading of the extensions under `custom/`.

A folder is imported under its own name, hyphens included.
"""

import importlib.util
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Optional

from . import registry
from .utils.logging import debug, warn


@dataclass(frozen=True)
class ExtensionReport:
    """What became of one extension."""

    name: str
    """Module name: the folder's name, or the file's path without `.py`."""
    seconds: float
    """Time its import took."""
    error: Optional[str]
    """None, or one line that says why it failed to import."""


_reports: dict[Path, ExtensionReport] = {}


def load_extensions(root: str = "custom") -> dict[str, ExtensionReport]:
    """Import every extension under `root` that is not imported yet.

    Folders need an `__init__.py`; names that end in `_disabled` are skipped. A failure is
    remembered and logged, its registrations are undone, and the others are loaded all the same; a
    later `find` of a missing name tells of it.

    Returns:
        Report of each extension under `root`, by name. Calling again imports nothing twice.
    """
    registry.load_builtin_components()
    folder = Path(root)
    if not folder.is_dir():
        debug(f"No folder '{root}' here: no extensions are loaded.")
        return {}
    reports = {}
    for path in sorted(folder.iterdir()):
        if not _is_extension(path):
            continue
        key = path.resolve()
        if key not in _reports:
            _reports[key] = _load_one(path)
        reports[_reports[key].name] = _reports[key]
    return reports


def _is_extension(path: Path) -> bool:
    if path.name.startswith((".", "__")) or path.stem.endswith("_disabled"):
        return False
    return path.suffix == ".py" if path.is_file() else (path / "__init__.py").is_file()


def _load_one(path: Path) -> ExtensionReport:
    name = path.name if path.is_dir() else str(path.with_suffix(""))
    before, start = registry.snapshot(), time.perf_counter()
    error = None
    try:
        _import_path(name, path)
    except Exception as failure:
        registry.restore(before)
        _forget_modules(name)
        error = f"{type(failure).__name__}: {failure}"
        warn(f"Extension '{name}' failed to import: {error}\n{traceback.format_exc()}")
    registry.remember_import_failure(name, error)
    return ExtensionReport(name=name, seconds=time.perf_counter() - start, error=error)


def _import_path(name: str, path: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    file = path / "__init__.py" if path.is_dir() else path
    search = [str(path)] if path.is_dir() else None
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=search)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _forget_modules(name: str) -> None:
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        del sys.modules[module]
