"""A small threestudio: the runtime that extensions under `custom/` plug into.

Importing this package is cheap on purpose: only the registry and the log helpers come with it, so
that the command line can answer `--help` without torch. The built-in components (`data`, `models`,
`systems`) are imported when a component is first looked up, when an extension registers one, or
when they are imported by name.
"""

import importlib
from typing import Any

from .registry import (
    UnknownModuleError,
    find,
    load_builtin_components,
    register,
    registered_modules,
)
from .utils.logging import debug, info, warn

__version__ = "0.2.3"

IS_REWARD_SDS_RUNTIME = True
"""Marker by which an extension knows that it runs here and not in an upstream checkout."""

_SUBPACKAGES = ("data", "models", "systems", "utils")

__all__ = [
    "IS_REWARD_SDS_RUNTIME",
    "UnknownModuleError",
    "__modules__",
    "__version__",
    "debug",
    "find",
    "info",
    "load_builtin_components",
    "register",
    "warn",
]


def __getattr__(name: str) -> Any:
    """Serve `__modules__` with the built-ins in it, and subpackages on first use."""
    if name == "__modules__":
        return registered_modules()
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module 'threestudio' has no attribute {name!r}")
