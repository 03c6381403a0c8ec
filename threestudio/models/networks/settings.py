"""Settings of encodings and networks: blocks whose keys depend on their `otype`."""

import dataclasses
from typing import Any

from omegaconf import OmegaConf

from threestudio.models.faults import refuse
from threestudio.utils.fields import typed_values

SHARED = ("otype", "include_xyz")
"""Keys that are not the class's own."""


def own_settings(fields: type, block: Any, key: str = "network") -> tuple[Any, list[str]]:
    """Read a block as the dataclass `fields`, whose `faults(key)`, if it has one, checks ranges.

    Args:
        fields: The `Config` of an encoding or a network.
        block: Mapping of settings; `otype` and `include_xyz` are passed over.
        key: Place of the block in the YAML, for messages.

    Returns:
        The settings, None if some are wrong, and what is wrong.
    """
    plain = OmegaConf.to_container(block) if OmegaConf.is_config(block) else dict(block)
    given = {name: value for name, value in plain.items() if name not in SHARED}
    required = {
        field.name for field in dataclasses.fields(fields) if field.default is dataclasses.MISSING
    }
    values, faults = typed_values(fields, given, key)
    faults += [f"{key} needs `{name}`." for name in sorted(required - given.keys())]
    if faults:
        return None, faults
    settings = fields(**values)
    faults = settings.faults(key) if hasattr(settings, "faults") else []
    return settings, faults


def read_settings(fields: type, block: Any) -> Any:
    """Read a block as the dataclass `fields`; raise a `ConfigError` if it is wrong."""
    settings, faults = own_settings(fields, block)
    refuse(faults)
    return settings


def too_small(key: str, settings: Any, **least: int) -> list[str]:
    """List the settings that are below their least value."""
    return [
        f"`{key}.{name}` is {getattr(settings, name)}; it must be at least {bound}."
        for name, bound in least.items()
        if getattr(settings, name) < bound
    ]
