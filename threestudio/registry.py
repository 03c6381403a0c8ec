"""The registry: names in a YAML to classes, and who claimed each name."""

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

from .utils.errors import UserError
from .utils.logging import debug, info

RUNTIME = "threestudio"
"""Owner of the names that this package provides."""

Class = TypeVar("Class", bound=type)


@dataclass(frozen=True)
class Origin:
    """Who registered a name: the top-level package of the class, and whether as a preset."""

    owner: str
    preset: bool


class UnknownModuleError(UserError, KeyError):
    """A name that no component is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])


_modules: dict[str, type] = {}
_origins: dict[str, Origin] = {}
_import_failures: dict[str, str] = {}
_builtins_started = False


def load_builtin_components() -> None:
    """Import `threestudio.{data, models, systems}` once, which registers the built-in names."""
    global _builtins_started
    if _builtins_started:
        return
    _builtins_started = True
    try:
        for package in ("data", "models", "systems"):
            if importlib.util.find_spec(f"{RUNTIME}.{package}") is not None:
                importlib.import_module(f"{RUNTIME}.{package}")
    except BaseException:
        _builtins_started = False
        raise


def registered_modules() -> dict[str, type]:
    """Return the live mapping of name to class, built-ins included."""
    load_builtin_components()
    return _modules


def register(name: str, preset: bool = False) -> Callable[[Class], Class]:
    """Return a class decorator that makes the class available as `name`.

    A name that the runtime or a preset provides may be taken over by an extension (this is logged).
    Two extensions, or two classes of one package, that claim the same name are an error.

    Args:
        name: Name in the YAML, e.g. `"reward-sds-guidance"`.
        preset: Take the name only if it is still free, and give it up to whoever wants it later.
    """

    def decorate(cls: Class) -> Class:
        origin = Origin(owner=cls.__module__.split(".")[0], preset=preset)
        if origin.owner != RUNTIME:
            load_builtin_components()
        if name in _modules and not _may_replace(name, cls, origin):
            return cls
        _modules[name] = cls
        _origins[name] = origin
        return cls

    return decorate


def _may_replace(name: str, cls: type, new: Origin) -> bool:
    old_class, old = _modules[name], _origins[name]
    if (old_class.__module__, old_class.__qualname__) == (cls.__module__, cls.__qualname__):
        return True  # the same class after a reload
    if new.preset:
        debug(f"Preset '{name}' of {new.owner} not used: {old.owner} provides that name.")
        return False
    if old.preset or (old.owner == RUNTIME and new.owner != RUNTIME):
        info(f"'{name}' of {old.owner} is replaced by the one of {new.owner}.")
        return True
    if new.owner == RUNTIME:
        return False  # an extension was there first, it keeps the name
    raise ValueError(
        f"Module {name} already exists! Names of extensions conflict! It is registered by "
        f"'{old.owner}' ({old_class.__module__}.{old_class.__qualname__}) and again by "
        f"'{new.owner}' ({cls.__module__}.{cls.__qualname__}). Rename one of them, or disable one "
        "extension by appending '_disabled' to its folder's name."
    )


def find(name: str) -> type:
    """Return the class registered as `name`.

    `"main:sub1,sub2"` makes a new class with the bases `(sub1, sub2, main)`: mixins in front of the
    main class.

    Raises:
        UnknownModuleError: With close matches, and with what failed to import among the extensions.
    """
    load_builtin_components()
    if ":" not in name:
        return _find_one(name)
    main_name, _, rest = name.partition(":")
    if ":" in rest or not main_name or not rest:
        raise UserError(
            f"'{name}' is not a component name. A mixin is written 'main:sub' or 'main:sub1,sub2'."
        )
    bases = [_find_one(sub.strip()) for sub in rest.split(",")]
    return type(f"{main_name}.{rest}", (*bases, _find_one(main_name)), {})


def _find_one(name: str) -> type:
    if name in _modules:
        return _modules[name]
    raise UnknownModuleError(describe_unknown(name))


def describe_unknown(name: str) -> str:
    """Say why `name` cannot be found: an extension that failed to import, or what to type."""
    if not name:
        return "A component's type is empty. Set the key ending in '_type' to a registered name."
    text = f"Unknown component '{name}'."
    for extension, reason in _import_failures.items():
        text += f" It may belong to the extension '{extension}', which failed to import: {reason}"
    # what is only somewhat close to a missing one would lead astray
    cutoff = 0.85 if _import_failures else 0.5
    close = difflib.get_close_matches(name, _modules, n=3, cutoff=cutoff)
    if close:
        return text + " Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    if _import_failures:
        return text
    return text + " Registered are: " + ", ".join(sorted(_modules)) + "."


def remember_import_failure(extension: str, reason: Optional[str]) -> None:
    """Keep why an extension could not be imported, for later messages; None forgets it."""
    _import_failures.pop(extension, None)
    if reason is not None:
        _import_failures[extension] = reason


def snapshot() -> tuple[dict[str, type], dict[str, Origin]]:
    """Copy the registry, to undo the registrations of an extension that fails half way."""
    return dict(_modules), dict(_origins)


def restore(state: tuple[dict[str, type], dict[str, Origin]]) -> None:
    """Put the registry back to a `snapshot`."""
    _modules.clear()
    _modules.update(state[0])
    _origins.clear()
    _origins.update(state[1])
