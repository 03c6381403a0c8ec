"""Components that a later source of a configuration exchanges: whose settings stay.

A YAML or the command line that sets `x_type` to another component than the sources before it keeps
those settings of block `x` that the new component has, too; the others belonged to the old one.
"""

from typing import Any, Optional

from threestudio.registry import find

from .errors import UserError
from .fields import field_names
from .logging import info


def without_leftovers(
    earlier: dict[Any, Any], later: dict[Any, Any], text: str, path: str = ""
) -> dict[Any, Any]:
    """Return `earlier` without the settings that do not exist in components that `later` names.

    A setting that another one refers to (`${data.n_view}`) stays, so that it is reported as a fault
    and not as a reference that leads nowhere.

    Args:
        earlier: Plain configuration so far.
        later: Plain configuration that will be merged over it; what it sets itself is not looked
            at, so that its mistakes stay faults.
        text: The configuration so far as YAML.
        path: Where the two stand, for the log.
    """
    kept = dict(earlier)
    for key, value in later.items():
        name = str(key).removesuffix("_type")
        block = earlier.get(name)
        if name == key or earlier.get(key) == value or not isinstance(block, dict):
            continue
        known = _settings(name, value)
        if known is None or not isinstance(later.get(name, {}), dict):
            continue
        dropped = [s for s in block if s not in known and f"${{{path}{name}.{s}}}" not in text]
        if dropped:
            kept[name] = {setting: block[setting] for setting in block if setting not in dropped}
            info(f"{path}{name} loses {', '.join(dropped)}, which '{value}' does not have.")
    for key, value in later.items():
        if isinstance(value, dict) and isinstance(kept.get(key), dict):
            kept[key] = without_leftovers(kept[key], value, text, f"{path}{key}.")
    return kept


def _settings(name: str, component: Any) -> Optional[list[str]]:
    """List the settings of block `name` for a component, which is registered under its own name or
    with the block's in front (`reward_model_type: clip` is `reward-model-clip`).

    None for a component that is not known, and for one that hands flat keys on to its parts.
    """
    for full in (f"{name.replace('_', '-')}-{component}", str(component)):
        try:
            found = find(full)
        except UserError:
            continue
        fields = None if hasattr(found, "config_faults") else getattr(found, "Config", None)
        return None if fields is None else field_names(fields)
    return None
