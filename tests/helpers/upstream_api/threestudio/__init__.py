"""The names of upstream's `threestudio` that an extension may rely on, and no more of ours.

Written from the description of the API: registry, base classes, schedules, config parsing.
"""

import logging
from typing import Callable

__version__ = "0.2.3"
__modules__: dict[str, type] = {}

info = logging.getLogger("pytorch_lightning").info
debug = logging.getLogger("pytorch_lightning").debug
warn = logging.getLogger("pytorch_lightning").warning


def register(name: str) -> Callable[[type], type]:
    """Register a class; a name can be taken once."""

    def decorate(cls: type) -> type:
        if name in __modules__:
            raise ValueError(f"Module {name} already exists! Names of extensions conflict!")
        __modules__[name] = cls
        return cls

    return decorate


def find(name: str) -> type:
    """Return a registered class."""
    return __modules__[name]
