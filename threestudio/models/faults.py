"""Raising what a component's `check` found. The launcher calls `check` before anything is built."""

from threestudio.utils.errors import ConfigError


def refuse(faults: list[str]) -> None:
    """Raise one error with all faults, if there are any."""
    if faults:
        raise ConfigError("\n".join(faults))
