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
        _previous_config(find_last_path(cfg.geometry_convert_from))
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
    system = _previous_config(path)
    settings = OmegaConf.merge(system.get("geometry") or {}, cfg.geometry_convert_override)
    previous = find(system.geometry_type)(settings)
    state, epoch, step = load_module_weights(path, module_name="geometry", map_location="cpu")
    try:
        previous.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"'{path}' does not hold the geometry that its parsed.yaml describes: {error}"
        ) from error
    previous.do_update_step(epoch, step, on_load_weights=True)
    return find(cfg.geometry_type).create_from(
        previous.to(previous.device),
        cfg.geometry,
        copy_net=cfg.geometry_convert_inherit_texture,
    )


def _previous_config(checkpoint: str) -> Any:
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
