"""Values for the fields of a `Config` dataclass: which keys there are, and what type each needs."""

import dataclasses
import functools
import inspect
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .overrides import did_you_mean

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping of keys to values",
    list[str]: "a list of texts",
    list[int]: "a list of whole numbers",
    type(None): "null",
}


def field_names(fields: type) -> list[str]:
    """List the keys that a config dataclass declares."""
    return [f.name for f in dataclasses.fields(fields) if f.init]


def component_name(fields: type) -> str:
    """Name the component that a config belongs to: `VolumeGrid` for `VolumeGrid.Config`."""
    return fields.__qualname__.removesuffix(".Config").split(".")[-1]


def typed_values(
    fields: type, values: dict[Any, Any], path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Convert plain values to the types that a config dataclass declares.

    Lists pass where an extension declares a number, as in upstream: a schedule, or one value for
    each stage. The runtime declares such settings `Any`, and a number is a number.

    Args:
        fields: The dataclass.
        values: Keys and plain values.
        path: Where the block stands, for the messages.

    Returns:
        The values that are right, converted, and one message for each that is not.
    """
    prefix = f"{path}." if path else ""
    declared = {f.name: f.type for f in dataclasses.fields(fields) if f.init}
    typed, faults = {}, []
    for key, value in values.items():
        if key not in declared:
            known = sorted(declared)
            hint = did_you_mean(str(key), known) or f" Known are: {', '.join(known)}."
            faults.append(f"{prefix}{key} is not a known key.{hint}")
            continue
        lists = takes_lists(fields, key)
        try:
            typed[key] = _convert(_scratch(fields), key, value, declared[key], lists)
        except (OmegaConfBaseException, _Refused):
            need = _describe(declared[key], lists)
            faults.append(f"{prefix}{key} is {value!r}, but needs {need}.")
    return typed, faults


@functools.cache
def _scratch(fields: type) -> DictConfig:
    """Make the config in which OmegaConf converts values, once for each dataclass: it is slow."""
    return OmegaConf.structured(fields)


class _Refused(Exception):
    """A value that OmegaConf would accept but the field cannot use."""


def is_number(value: Any) -> bool:
    """Tell ints and floats, infinite ones too, from everything else; a bool is not a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def takes_lists(fields: type, key: str) -> bool:
    """Tell whether the number `key` may be a list: if an extension's class declares it."""
    owner = next(cls for cls in fields.__mro__ if key in inspect.get_annotations(cls))
    return owner.__module__.split(".")[0] != __name__.split(".")[0]


def _convert(scratch: Any, key: str, value: Any, declared: Any, lists: bool) -> Any:
    if declared is Any:
        return list(value) if isinstance(value, tuple) else value
    members = get_args(declared)
    if isinstance(value, (list, tuple)) and _takes_number(declared):
        if not lists or not all(is_number(item) for item in value):
            raise _Refused
        return ListConfig(list(value))
    if get_origin(declared) is tuple:
        return _convert_tuple(value, members)
    if get_origin(declared) is Union and isinstance(value, int) and not isinstance(value, bool):
        if float in members and int not in members:
            value = float(value)
    scratch[key] = value
    converted = scratch[key]
    return OmegaConf.to_container(converted) if OmegaConf.is_config(converted) else converted


def _convert_tuple(value: Any, members: tuple[Any, ...]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _Refused
    if Ellipsis in members:
        members = (members[0],) * len(value)
    if len(value) != len(members):
        raise _Refused
    for item, member in zip(value, members, strict=True):
        if member in (int, float) and not is_number(item):
            raise _Refused
    return tuple(
        float(item) if member is float else item
        for item, member in zip(value, members, strict=True)
    )


def _takes_number(declared: Any) -> bool:
    members = get_args(declared) if get_origin(declared) is Union else (declared,)
    return float in members or int in members


def _describe(declared: Any, lists: bool) -> str:
    if lists and _takes_number(declared):
        return _name(declared) + " or a list of numbers"
    if get_origin(declared) is tuple and Ellipsis not in get_args(declared):
        return f"a list of {len(get_args(declared))} values"
    return _name(declared)


def _name(declared: Any) -> str:
    members = get_args(declared) if get_origin(declared) is Union else (declared,)
    return " or ".join(_NAMES.get(m, str(m).replace("typing.", "")) for m in members)
