"""The flat guidance block: each key goes to the component whose `Config` has it.

A baseline's block is accepted as it is, so a swap to reward guidance is one changed line and a few
added. No key exists in two of {guidance, prior, objective}. Everything that is wrong with a block
is collected as a list of sentences ("faults") before anything is built.
"""

import dataclasses
import difflib
from typing import Any, Dict, Iterable, List, Optional, Tuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import threestudio

OFFICIAL_STRATEGIES = {"weighted": "softmax"}
"""Strategy names of the official release that differ from ours."""

FLAT_ROLES = ("prior", "objective")
"""Roles whose keys stand flat in the guidance block."""

PREFIXES = {"reward_model": "reward-model-", "reward_strategy": "reward-strategy-"}
"""Roles with a block of their own, and what precedes their names in the registry."""


def plain(cfg: Any) -> Dict[str, Any]:
    """Return a config block as a plain dictionary."""
    if cfg is None:
        return {}
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else dict(cfg)


def translate_official(block: Dict[str, Any]) -> Dict[str, Any]:
    """Translate the flat form of the official release into ours.

    A name under `reward_strategy` or `reward_model`, where we have a block, becomes its `..._type`;
    `num_of_training_steps` becomes `trainer_max_steps`. A name wins over a `..._type`, because on
    the command line it replaces the block of a YAML.
    """
    block = dict(block)
    for role in PREFIXES:
        if isinstance(block.get(role), str):
            name = block.pop(role)
            block[f"{role}_type"] = OFFICIAL_STRATEGIES.get(name, name)
        elif role in block and block[role] is None:
            del block[role]
    if "num_of_training_steps" in block:
        steps = block.pop("num_of_training_steps")
        block.setdefault("trainer_max_steps", steps)
    return block


def nest(config: type, block: Any, preset: Dict[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """Sort the keys of a flat block: the guidance's own, `prior: {...}`, `objective: {...}`.

    Args:
        config: The guidance's `Config` dataclass.
        block: The guidance block as the user wrote it.
        preset: Values for keys that the user left out; those of its prior do not count for another.

    Returns:
        The nested block with typed values, and its faults; the block is usable when there are none.
    """
    given = translate_official(plain(block))
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    names = {f"{role}_type": defaults[f"{role}_type"] for role in FLAT_ROLES}
    names = {key: given.get(key, preset.get(key, name)) for key, name in names.items()}
    classes = {role: find_role(role, names[f"{role}_type"]) for role in FLAT_ROLES}
    faults = [fault for _, fault in classes.values() if fault]
    if faults:
        return {}, faults
    keys = {role: field_names(found.Config) - {"weights"} for role, (found, _) in classes.items()}
    own = field_names(config)
    nested: Dict[str, Any] = {role: dict(given.pop(role, None) or {}) for role in FLAT_ROLES}
    same_prior = names["prior_type"] == preset.get("prior_type")
    preset = {
        key: value
        for key, value in preset.items()
        if key in own | keys["objective"] or (same_prior and key not in nested["prior"])
    }
    if classes["objective"][0].follows_prior:
        for key, value in classes["prior"][0].flat_defaults.items():
            nested["objective"].setdefault(key, value)
    for key, value in {**preset, **given}.items():
        owner = next((role for role in FLAT_ROLES if key in keys[role]), None)
        if key in own:
            nested[key] = value
        elif owner is not None:
            nested[owner][key] = value
        else:
            faults.append(unknown_key(key, own.union(*keys.values()), "system.guidance"))
    return nested, faults


def examine(guidance: type, block: Any) -> Tuple[Dict[str, Any], List[str]]:
    """Check a guidance block and everything in it, without loading any model.

    Args:
        guidance: The guidance class (its `Config`, `preset` and `check` are read).
        block: The guidance block as the user wrote it.

    Returns:
        The whole block, nested and typed, defaults included, and all faults.
    """
    nested, faults = nest(guidance.Config, block, guidance.preset)
    if faults and not nested:
        return nested, faults
    values, own_faults = component_faults(guidance, nested, "system.guidance")
    faults += own_faults
    for role in ("prior", "objective", *_reward_roles(values)):
        found, fault = find_role(role, values[f"{role}_type"])
        if fault:
            faults.append(fault)
            continue
        where = "system.guidance" if role in FLAT_ROLES else f"system.guidance.{role}"
        values[role], role_faults = component_faults(found, values[role], where)
        faults += role_faults
        if role == "reward_strategy" and not role_faults:
            faults += _too_few_candidates(found, values)
    return values, faults


def _reward_roles(values: Dict[str, Any]) -> List[str]:
    """Name the roles that will be built: a reward only when the strategy reads it.

    A strategy that does not exist is taken for one that does: its name is misspelt.
    """
    strategy, _ = find_role("reward_strategy", values["reward_strategy_type"])
    scored = values["n_noises"] != 1 and getattr(strategy, "needs_rewards", True)
    return ["reward_strategy", "reward_model"] if scored else ["reward_strategy"]


def _too_few_candidates(strategy: type, values: Dict[str, Any]) -> List[str]:
    """Say so when `n_noises` is too small for the strategy; 1 is the plain objective."""
    config, given = strategy.Config(**values["reward_strategy"]), values["n_noises"]
    needed = strategy.min_candidates(config)
    if given <= 1 or given >= needed:
        return []
    counts = [key for key in ("num_best", "num_worst") if hasattr(config, key)]
    used = " + ".join(f"{key}={getattr(config, key)}" for key in counts)
    lower = ", ".join(f"{key}: 1" for key in counts)
    return [
        f"`n_noises` is {given} but strategy '{values['reward_strategy_type']}' uses {needed} "
        f"candidates ({used}). Set `system.guidance.n_noises` to {needed} or more, or lower the "
        f"counts, e.g. `reward_strategy: {{{lower}}}`."
    ]


def find_role(role: str, name: Any) -> Tuple[Optional[type], Optional[str]]:
    """Find the class of a role by its name in the YAML; the second part is the fault, if any."""
    prefix = PREFIXES.get(role, "")
    name = str(name)
    full = name if name.startswith(prefix) else prefix + name
    modules = threestudio.__modules__
    if full in modules:
        return modules[full], None
    ending = "" if prefix else f"-{role}"
    known = [n[len(prefix) :] for n in modules if n.startswith(prefix) and n.endswith(ending)]
    text = f"`system.guidance.{role}_type` is '{name}', but there is no such component."
    return None, text + suggestions(name, known)


def component_faults(
    cls: type, block: Dict[str, Any], where: str
) -> Tuple[Dict[str, Any], List[str]]:
    """Check a component's block: keys, types, then the component's own `check`.

    Args:
        cls: The component's class.
        block: Its settings.
        where: Place of the block in the YAML, for messages.

    Returns:
        The whole block, defaults included, with values of the declared types, and the faults.
    """
    known, faults = field_names(cls.Config), []
    config = OmegaConf.structured(cls.Config)
    for key, value in block.items():
        if key not in known:
            faults.append(unknown_key(key, known, where) + _left_over(key, where.split(".")[-1]))
            continue
        try:
            OmegaConf.update(config, key, value, merge=False)
        except (OmegaConfBaseException, TypeError, ValueError):
            kind = next(f.type for f in dataclasses.fields(cls.Config) if f.name == key)
            faults.append(
                f"`{where}.{key}` is {value!r} ({type(value).__name__}), but must be "
                f"{getattr(kind, '__name__', kind)}, like its default "
                f"{OmegaConf.to_container(OmegaConf.structured(cls.Config))[key]!r}."
            )
    return OmegaConf.to_container(config), faults + list(cls.check(config))


def _left_over(key: str, role: str) -> str:
    """Name the other components of a role that have the key: a merge may have left it behind."""
    prefix = PREFIXES.get(role)
    if prefix is None:
        return ""
    names = [name for name in threestudio.__modules__ if name.startswith(prefix)]
    owners = [
        f"'{name[len(prefix) :]}'"
        for name in sorted(names)
        if key in field_names(threestudio.__modules__[name].Config)
    ]
    if not owners:
        return ""
    return f" It is a key of {' and '.join(owners)}: delete it if it is left over from there."


def field_names(config: type) -> set:
    """Return the keys of a `Config` dataclass."""
    return {f.name for f in dataclasses.fields(config)}


def unknown_key(key: str, known: Iterable[str], where: str) -> str:
    """Say that a key does not exist, with close matches."""
    return f"`{where}.{key}` is not a key of this block." + suggestions(key, known)


def suggestions(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean ...?" for close matches, else the list of what there is."""
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return f" There are: {', '.join(sorted(known))}."
