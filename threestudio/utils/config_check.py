"""All faults of a configuration in one report, before anything is built.

The walk follows a convention: a block `x` beside a key `x_type` belongs to the component registered
under that type. A component may say more about its block:

- `Config.__post_init__` raises `ValueError` for values that do not fit together;
- `check(cfg) -> list[str]`, static or class method, lists faults of the parsed block;
- `config_faults(cfg: dict) -> list[str]`, class method, takes over for blocks whose keys are not
  the fields of one `Config` (a guidance that hands flat keys to its parts).
"""

from typing import Any

from omegaconf import OmegaConf

from threestudio.registry import find

from .config import ExperimentConfig, config_to_primitive, parse_structured
from .errors import ConfigError, UserError
from .fields import field_names, typed_values
from .lightning_check import lightning_faults
from .pictures import picture_faults
from .random import MAX_SEED

COPIES = {
    "system.image.seeds": "data.seeds",
    "system.image.picture": "system.guidance.source_image",
}
"""Setting that YAMLs interpolate -> where it comes from; a fault of both is told of the latter."""


def check_config(cfg: Any) -> None:
    """Check a merged configuration (see `config.merge_configs`).

    Raises:
        ConfigError: One error with every fault that was found.
    """
    faults = config_faults(config_to_primitive(cfg))
    if len(faults) == 1:
        raise ConfigError(faults[0])
    if faults:
        listed = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(faults, start=1))
        raise ConfigError(f"The configuration has {len(faults)} faults:\n{listed}")


def config_faults(cfg: dict[str, Any]) -> list[str]:
    """List the faults of a whole configuration."""
    blocks = {part: {} for part in ("data", "system") if part in cfg}  # examined below
    faults = typed_values(ExperimentConfig, {**cfg, **blocks})[1]
    if not cfg.get("tag") and cfg.get("use_timestamp") is False:
        faults.append("`tag` is empty and `use_timestamp` is false: set one, the run needs a name.")
    for part in ("data", "system"):
        faults += _component_faults(part, cfg.get(f"{part}_type") or "", cfg.get(part))
    faults += _seed_faults(cfg.get("seed", 0)) + view_faults(cfg) + image_faults(cfg)
    faults += lightning_faults(cfg)
    for copy, original in COPIES.items():
        if _value(cfg, copy) == _value(cfg, original) is not None:
            faults = [fault.replace(f"`{copy}`", f"`{original}`") for fault in faults]
    return list(dict.fromkeys(faults))


def _value(cfg: Any, path: str) -> Any:
    for key in path.split("."):
        cfg = cfg.get(key) if isinstance(cfg, dict) else None
    return cfg


def _seed_faults(seed: Any) -> list[str]:
    if isinstance(seed, int) and not 0 <= seed < MAX_SEED:
        return [f"seed is {seed}, but needs a whole number from 0 to {MAX_SEED - 1}."]
    return []


def _component_faults(path: str, type_name: Any, block: Any) -> list[str]:
    """List the faults of the block at `path`, and of the blocks in it."""
    if not type_name:
        return [f"{path}_type is not set. It names a registered component."]
    try:
        component = find(str(type_name))
    except UserError as error:
        return [f"{path}_type: {error}"]
    block = {} if block is None else block
    if not isinstance(block, dict):
        return [f"{path} is {block!r}, but needs a mapping of keys to values."]
    if hasattr(component, "config_faults"):
        return [_with_path(path, fault) for fault in component.config_faults(block)]
    fields = getattr(component, "Config", None)
    if fields is None:
        return []
    faults = typed_values(fields, block, path)[1]
    return (faults or _value_faults(component, block, path)) + _child_faults(fields, block, path)


def _child_faults(fields: type, block: dict[str, Any], path: str) -> list[str]:
    faults = []
    names = field_names(fields)
    for child in (name.removesuffix("_type") for name in names if name.endswith("_type")):
        # A default type is checked where it is used: the part may not be built at all.
        if child in names and block.get(f"{child}_type"):
            where = f"{path}.{child}"
            faults += _component_faults(where, block[f"{child}_type"], block.get(child))
    return faults


def _value_faults(component: type, block: dict[str, Any], path: str) -> list[str]:
    """List what the component itself says about a block whose keys and types are right."""
    try:
        parsed = parse_structured(component.Config, block)
        check = getattr(component, "check", None)
        faults = check(parsed) if callable(check) else []
    except (ValueError, TypeError) as error:
        faults = str(error).splitlines()
    return [_with_path(path, fault) for fault in faults]


def _with_path(path: str, fault: str) -> str:
    return fault if path.split(".")[0] in fault.split(":")[0] else f"{path}: {fault}"


def view_faults(cfg: dict[str, Any]) -> list[str]:
    """Compare the views per scene of the data with those that the guidance's prior expects."""
    system = cfg.get("system") if isinstance(cfg.get("system"), dict) else {}
    drawn = _setting(cfg.get("data_type"), cfg.get("data"), "n_view")
    expected = _setting(system.get("guidance_type"), system.get("guidance"), "n_view")
    if not isinstance(expected, int) or drawn == expected:
        return []
    if expected > 1 and _draws_single_views(cfg.get("data_type")):
        return [
            f"The guidance takes {expected} views of a scene at once (system.guidance.n_view), but "
            f"'{cfg['data_type']}' does not draw any that belong together. Set data_type to "
            f"'mvdream-random-multiview-camera-datamodule' and data.n_view to {expected}, with a "
            "multiple of it as data.batch_size."
        ]
    if not isinstance(drawn, int):
        return []
    return [
        f"data.n_view is {drawn}, but system.guidance.n_view is {expected}: the guidance would "
        "take views of different scenes for views of one. Set both to the same number, e.g. "
        "`system.guidance.n_view: ${data.n_view}`."
    ]


def image_faults(cfg: dict[str, Any]) -> list[str]:
    """Compare the number of images that are optimised with the number that is drawn for, and with
    the number of pictures that a guidance edits.
    """
    system = cfg.get("system") if isinstance(cfg.get("system"), dict) else {}
    drawn = _setting(cfg.get("data_type"), cfg.get("data"), "seeds")
    images = _setting(system.get("image_type"), system.get("image"), "seeds")
    if not isinstance(drawn, list) or not isinstance(images, list):
        return []
    if len(drawn) != len(images):
        return [
            f"data.seeds has {len(drawn)} seeds, but system.image.seeds has {len(images)}: each "
            "image needs one of both. Set `system.image.seeds: ${data.seeds}`."
        ]
    edited = _value(cfg, "system.guidance.source_image")
    if edited is None:
        return []
    return picture_faults("system.guidance.source_image", edited, len(images))


def _known(type_name: Any) -> Any:
    """Return a component; None if there is none of this name, which is a fault of its own."""
    try:
        return find(str(type_name))
    except UserError:
        return None


def _draws_single_views(data_type: Any) -> bool:
    """Whether a data module is one of the runtime without `n_view`; others may have a key of their
    own for it.
    """
    module = _known(data_type)
    ours = getattr(module, "__module__", "").startswith("threestudio.data.")
    return ours and "n_view" not in field_names(module.Config)


def _setting(type_name: Any, block: Any, key: str) -> Any:
    """Return the value that `key` has in a component, or in the prior that it chooses.

    None if neither has such a key, or if the component is not known.
    """
    component = _known(type_name)
    block = block if isinstance(block, dict) else {}
    fields = getattr(component, "Config", None)
    if fields is None:
        return None
    if key in field_names(fields):
        return block.get(key, config_to_primitive(OmegaConf.structured(fields))[key])
    if "prior_type" not in field_names(fields):
        return None
    given = {**getattr(component, "preset", {}), **block}
    prior = given.get("prior_type", getattr(fields, "prior_type", None))
    nested = given.get("prior") if isinstance(given.get("prior"), dict) else {}
    return _setting(prior, {**nested, **given}, key)
