"""Config parsing as upstream has it: the dataclass takes the keys, OmegaConf wraps it."""

from typing import Any

from omegaconf import OmegaConf


def parse_structured(fields: type, cfg: Any = None) -> Any:
    """Build a structured config; an unknown key is a `TypeError`."""
    return OmegaConf.structured(fields(**cfg))


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Return plain containers."""
    return OmegaConf.to_container(config, resolve=resolve)
