"""Packages that only some features need."""

import importlib
from types import ModuleType

from threestudio.utils.errors import UserError


def optional_package(module: str, package: str, feature: str) -> ModuleType:
    """Import a module when the feature that needs it is used.

    Args:
        module: Name to import.
        package: Name to install.
        feature: What needs it, the beginning of the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{feature} needs the package {package}, which cannot be imported ({error}). "
            f"Install it: `pip install {package}`."
        ) from error
