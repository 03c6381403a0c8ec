"""Configuration: YAML files and overrides become one `ExperimentConfig`, and blocks become typed
`Config` objects.
"""

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Optional

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import ConfigError
from .fields import component_name, typed_values
from .logging import warn
from .overrides import apply_override, did_you_mean
from .swaps import without_leftovers
from .text import slug
from .typing import Number


def C_max(value: Any) -> Number:
    """Return the largest value a schedule takes: its start value and all later values; a number is
    itself.
    """
    if isinstance(value, (int, float)):
        return value
    points = list(config_to_primitive(value))
    if len(points) == 3:
        points = [0, *points]
    return max(points[1], *points[2::2])


def _register_resolvers() -> None:
    resolvers = {
        "calc_exp_lr_decay_rate": lambda factor, n: factor ** (1.0 / n),
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "idiv": lambda a, b: a // b,
        "basename": lambda path: os.path.basename(path),
        "rmspace": lambda text, sub: str(text).replace(" ", sub),
        "tuple2": lambda value: [float(value), float(value)],
        "gt0": lambda value: value > 0,
        "not": lambda value: not value,
        "cmaxgt0": lambda value: C_max(value) > 0,
        "cmaxgt0orcmaxgt0": lambda a, b: C_max(a) > 0 or C_max(b) > 0,
    }
    add = getattr(OmegaConf, "register_resolver", OmegaConf.register_new_resolver)
    for name, function in resolvers.items():
        if not OmegaConf.has_resolver(name):
            add(name, function)


_register_resolvers()


@dataclass
class ExperimentConfig:
    """The whole configuration of a run. Making one creates its `trial_dir`."""

    name: str = "default"
    description: str = ""
    tag: str = ""
    """Name of the run under `exp_dir`, often made from the prompt; turned into a safe folder name.
    """
    seed: int = 0
    use_timestamp: bool = True
    timestamp: Optional[str] = None
    """Appended to the tag; made from the clock when null and `use_timestamp`."""
    exp_root_dir: str = "outputs"
    exp_dir: str = "outputs/default"
    trial_name: str = "exp"
    trial_dir: str = "outputs/default/exp"
    n_gpus: int = 1
    resume: Optional[str] = None
    """Checkpoint to continue from."""
    data_type: str = ""
    data: dict = field(default_factory=dict)
    system_type: str = ""
    system: dict = field(default_factory=dict)
    trainer: dict = field(default_factory=dict)
    """Arguments of Lightning's `Trainer`."""
    checkpoint: dict = field(default_factory=dict)
    """Arguments of Lightning's `ModelCheckpoint`, and `rolling_every_n_steps` (250): steps between
    `last.ckpt`s.
    """

    def __post_init__(self) -> None:
        if not self.tag and not self.use_timestamp:
            raise ConfigError(
                "`tag` is empty and `use_timestamp` is false: set one, the run needs a name."
            )
        fresh = self.timestamp is None and self.use_timestamp
        if self.timestamp is None:
            self.timestamp = ""
        if fresh and self.n_gpus > 1:
            warn("Timestamps are off with several GPUs: give each run its own `tag`.")
            fresh = False
        if fresh:
            self.timestamp = datetime.now().strftime("@%Y%m%d-%H%M%S")
        self.exp_dir = os.path.join(self.exp_root_dir, slug(self.name, "default", keep="/"))
        self._make_trial_dir(unique=fresh)

    def _make_trial_dir(self, unique: bool) -> None:
        """Create `trial_dir`; a fresh timestamp gets a counter if another run started in the same
        second.
        """
        stem, counter = self.timestamp, 1
        while True:
            self.trial_name = slug(self.tag, "") + self.timestamp
            self.trial_dir = os.path.join(self.exp_dir, self.trial_name)
            try:
                os.makedirs(self.trial_dir, exist_ok=not unique)
                return
            except FileExistsError as error:
                if not (unique and os.path.isdir(self.trial_dir)):
                    raise ConfigError(_cannot_make(self.trial_dir, error)) from error
                counter += 1
                self.timestamp = f"{stem}-{counter}"
            except OSError as error:
                raise ConfigError(_cannot_make(self.trial_dir, error)) from error


def _cannot_make(folder: str, error: OSError) -> str:
    return (
        f"The run folder '{folder}' cannot be made: {error.strerror}. Set `exp_root_dir` to a "
        "folder that you can write to."
    )


def merge_configs(
    *sources: str, cli_args: Optional[list[str]] = None, from_string: bool = False, **kwargs: Any
) -> DictConfig:
    """Merge YAML files, then `key=value` overrides, then keyword arguments, and resolve all
    interpolations.

    Each YAML, and the overrides together, may exchange components of what is before, see `swaps`.

    Raises:
        ConfigError: For a missing file, bad YAML, a missing `???` value, or an interpolation that
            leads nowhere.
    """
    config = merge_sources(*sources, from_string=from_string)
    config = _prepared(config, _named_types(cli_args or []))
    for override in cli_args or []:
        apply_override(config, override)
    config = OmegaConf.merge(config, kwargs)
    _check_blocks(config)
    missing = _missing(OmegaConf.to_container(config, resolve=False))
    if missing:
        raise ConfigError(
            "Values that the config leaves open (`???`) are missing. Add to the command: "
            + " ".join(f"{key}=..." for key in missing)
        )
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        key = f"`{error.full_key}`" if getattr(error, "full_key", None) else "A value"
        raise ConfigError(f"{key} cannot be resolved: {_first_line(error)}") from error
    return config


def merge_sources(*sources: str, from_string: bool = False) -> DictConfig:
    """Merge YAML files without resolving anything.

    Raises:
        ConfigError: For a missing file and bad YAML.
    """
    config = OmegaConf.create()
    for source in sources:
        yaml = _read_yaml(source, from_string)
        config = OmegaConf.merge(_prepared(config, yaml), yaml)
    return config


def _prepared(config: DictConfig, later: DictConfig) -> DictConfig:
    plain = (OmegaConf.to_container(part, resolve=False) for part in (config, later))
    return OmegaConf.create(without_leftovers(*plain, OmegaConf.to_yaml(config)))


def _named_types(overrides: list[str]) -> DictConfig:
    """Return what overrides set of the keys that name a component."""
    config = OmegaConf.create()
    for override in overrides:
        if "_type" in override:
            apply_override(config, override)
    return config


def _check_blocks(config: DictConfig) -> None:
    """Say that a block was replaced by a value, before interpolations into it fail."""
    for name in ("data", "system", "trainer", "checkpoint"):
        value = None if OmegaConf.is_interpolation(config, name) else config.get(name)
        if value is not None and not isinstance(value, DictConfig):
            raise ConfigError(
                f"{name} is {value!r}, but needs a mapping of keys to values. Set keys of it, e.g. "
                f"`{name}.<key>=<value>`."
            )


def _missing(values: Any, path: str = "") -> list[str]:
    """List the paths of `???`; OmegaConf's own list stops at interpolations of missing values."""
    if isinstance(values, dict):
        paths = [(f"{path}.{key}" if path else str(key), item) for key, item in values.items()]
        return [found for where, item in paths for found in _missing(item, where)]
    return [path] if values == "???" else []


def load_config(
    *yamls: str, cli_args: Optional[list[str]] = None, from_string: bool = False, **kwargs: Any
) -> DictConfig:
    """Merge as `merge_configs` does and return an `ExperimentConfig`. Creates the run's folder."""
    return parse_structured(
        ExperimentConfig,
        merge_configs(*yamls, cli_args=cli_args, from_string=from_string, **kwargs),
    )


def _read_yaml(source: str, from_string: bool) -> DictConfig:
    name = "The configuration" if from_string else f"'{source}'"
    if not from_string and not os.path.isfile(source):
        folder = Path(source).parent
        names = [str(p) for p in sorted(folder.glob("*.yaml"))] if folder.is_dir() else []
        hint = did_you_mean(str(source), names) or (
            f" There are: {', '.join(names)}." if names else ""
        )
        raise ConfigError(f"Config file '{source}' does not exist.{hint}")
    try:
        config = OmegaConf.create(source) if from_string else OmegaConf.load(source)
    except Exception as error:
        raise ConfigError(f"{name} is not valid YAML: {error}") from error
    if not isinstance(config, DictConfig):
        raise ConfigError(f"{name} is not a mapping of keys to values.")
    return config


def config_to_primitive(config: Any, resolve: bool = True) -> Any:
    """Convert OmegaConf containers to plain ones; plain values are returned as they are."""
    return (
        OmegaConf.to_container(config, resolve=resolve) if OmegaConf.is_config(config) else config
    )


def dump_config(path: str, config: Any) -> None:
    """Write a config as YAML, in one piece: a kill leaves the older file or the whole new one."""
    partial = f"{path}.{os.getpid()}.tmp"
    with open(partial, "w", encoding="utf-8") as file:
        OmegaConf.save(config=config, f=file)
    os.replace(partial, path)


def parse_structured(fields: type, cfg: Optional[Any] = None) -> Any:
    """Make a typed config from plain data.

    Lists are accepted where a number is declared, because many numbers may be schedules; other
    types are checked.

    Args:
        fields: Dataclass that declares keys, types and defaults.
        cfg: Mapping (plain or OmegaConf) of the keys to set; None sets none.

    Returns:
        OmegaConf object with the fields of the dataclass.

    Raises:
        ConfigError: For unknown keys, with close matches, and for values of a wrong type.
    """
    values = config_to_primitive(cfg) if cfg is not None else {}
    component = component_name(fields)
    if not isinstance(values, dict):
        raise ConfigError(f"{component} needs a mapping of keys to values, not {values!r}.")
    typed, faults = typed_values(fields, values)
    if faults:
        raise ConfigError(f"{component}: " + " ".join(faults))
    return OmegaConf.structured(fields(**typed))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
