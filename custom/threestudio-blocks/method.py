"""Access to the method's extension, whose folder name no import statement can spell."""

import importlib
from types import ModuleType

from threestudio.extensions import load_extensions


def reward_sds(module: str) -> ModuleType:
    """Import a module of `custom/threestudio-reward-sds`, e.g. `reward_sds("search")`."""
    load_extensions()
    return importlib.import_module(f"threestudio-reward-sds.{module}")
