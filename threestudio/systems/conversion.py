"""Starting from the geometry of another run: `system.geometry_convert_from`."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from threestudio.registry import find
from threestudio.utils.base import BaseModule
from threestudio.utils.errors import CheckpointError, ConfigError
from threestudio.utils.misc import find_last_path, load_module_weights


def conversion_faults(cfg: Any) -> list[str]:
    """Say what stands in the way of a conversion; empty if none is wanted."""
    if not cfg.geometry_convert_from or cfg.weights:
        return []
    try:
        previous_system(find_last_path(cfg.geometry_convert_from))
    except (FileNotFoundError, ConfigError) as error:
        return [f"system.geometry_convert_from: {error}"]
    return []


def convert_geometry(cfg: Any) -> BaseModule:
    """Build the geometry that `cfg` describes out of a trained one.

    Args:
        cfg: A system's configuration. `geometry_convert_from` is a checkpoint in the `ckpts/`
            folder of a run; the old geometry's type and settings are read from the run's
            `configs/parsed.yaml`, changed by `geometry_convert_override`.

    Raises:
        ConfigError: If the run has no readable configuration.
        CheckpointError: If the checkpoint holds another geometry.
        TypeError: If the new geometry cannot be made of the old one.
    """
    path = find_last_path(cfg.geometry_convert_from)
    previous = load_part(path, previous_system(path), "geometry", cfg.geometry_convert_override)
    return find(cfg.geometry_type).create_from(
        previous,
        cfg.geometry,
        copy_net=cfg.geometry_convert_inherit_texture,
    )


def load_part(path: str, system: Any, part: str, override: Any = None) -> BaseModule:
    """Build a part of another run's scene, e.g. its geometry, with the weights of a checkpoint.

    Args:
        path: The checkpoint.
        system: What `previous_system` says of it.
        part: Name of the part.
        override: Settings of the part that are changed.

    Raises:
        CheckpointError: If the checkpoint holds another part.
    """
    settings = OmegaConf.merge(system.get(part) or {}, override or {})
    previous = find(system[f"{part}_type"])(settings)
    state, epoch, step = load_module_weights(path, module_name=part, map_location="cpu")
    try:
        previous.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"'{path}' does not hold the {part} that its parsed.yaml describes: {error}"
        ) from error
    previous.do_update_step(epoch, step, on_load_weights=True)
    return previous.to(previous.device)


def previous_system(checkpoint: str) -> Any:
    """Return the `system` block of the run that a checkpoint is in.

    Raises:
        ConfigError: If the run has no readable configuration.
    """
    parsed = Path(checkpoint).resolve().parent.parent / "configs" / "parsed.yaml"
    if not parsed.is_file():
        raise ConfigError(
            f"'{checkpoint}' is not in the `ckpts` folder of a run: there is no {parsed}, which "
            "says what geometry it holds."
        )
    system = OmegaConf.load(parsed).get("system")
    if not system or not system.get("geometry_type"):
        raise ConfigError(f"{parsed} has no `system.geometry_type`: it is not a run's parsed.yaml.")
    return system
