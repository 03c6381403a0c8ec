"""An experiment: a YAML of methods x captions x seeds, turned into the list of its runs.

The YAML's keys are documented in `blocks-3d-nerf-dev.yaml`; later experiments are new
YAMLs, not new code.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rows import Row

CaptionSource = Callable[[str, int], list[str]]
"""(split, captions per relation) -> captions."""


@dataclass(frozen=True)
class Trial:
    """One run to make."""

    method: str
    caption: str
    seed: int
    config: str
    """Path of the YAML, relative to the repository root."""
    overrides: tuple[str, ...]
    """Dotlist overrides of the method, without prompt, seed and folders."""
    config_id: str
    """`name.yaml@digest`, see `Row.config`."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.caption, self.seed


@dataclass(frozen=True)
class Evaluation:
    """How every result is looked at: the same views, judge and scorer for all methods."""

    judge: str = "load/blocks/judge"
    reward_type: str = "reward-model-clip"
    reward: dict[str, Any] = field(default_factory=dict)
    """The scorer's own settings."""
    camera_distance: float = 2.8
    fovy_deg: float = 40.0
    elevation_deg: float = 15.0
    size: int = 64
    """Width and height of a view in pixels."""


@dataclass(frozen=True)
class Experiment:
    """A parsed experiment YAML."""

    name: str
    trials: list[Trial]
    table: Path
    """The CSV."""
    evaluation: Evaluation
    floors: list[dict[str, Any]]
    """What was asked of the result before it was run; the report says which floors are met."""
    source: Path

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(trial.method for trial in self.trials))

    @property
    def folder(self) -> Path:
        """Where run folders, logs and pictures of single runs go (not committed)."""
        return Path("outputs/experiments") / self.name

    def picture(self, method: str, caption: str, seed: int) -> Path:
        """The four views of one run side by side."""
        name = f"{method}-{caption}-seed{seed}".replace(" ", "_")
        return self.folder / "views" / f"{name}.png"


def load_experiment(path: Path, captions_of: CaptionSource, root: Path = Path()) -> Experiment:
    """Read an experiment YAML.

    Args:
        path: The YAML.
        captions_of: Where the captions of a split come from.
        root: Folder that the paths in the YAML are relative to.

    Raises:
        ValueError: For an unknown or missing key, with the allowed ones, and for a method's
            `per_relation` that is none.
    """
    loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    _check_keys(loaded, path)
    captions = _captions(loaded["captions"], captions_of)
    allowed = {
        method: _captions_of_method(method, spec, loaded["captions"], captions_of)
        for method, spec in loaded["methods"].items()
    }
    weights = _digest_assets(root, loaded.get("assets", []))
    trials = []
    for seed in loaded["seeds"]:
        for caption in captions:
            for method, spec in loaded["methods"].items():
                if caption in allowed[method] and seed in spec.get("seeds", loaded["seeds"]):
                    overrides = (*loaded.get("overrides", []), *spec.get("overrides", []))
                    config_id = _config_id(root / spec["config"], overrides, weights)
                    trials.append(
                        Trial(method, caption, seed, spec["config"], overrides, config_id)
                    )
    return Experiment(
        name=loaded["name"],
        trials=trials,
        table=root / loaded["table"],
        evaluation=Evaluation(**loaded.get("evaluation", {})),
        floors=loaded.get("floors", []),
        source=path,
    )


def pending_trials(trials: Iterable[Trial], rows: Iterable[Row]) -> list[Trial]:
    """Leave out the runs that already have a row.

    Raises:
        ValueError: If a row was made with another config, other overrides or other weights.
    """
    done = {row.key: row.config for row in rows}
    todo = []
    for trial in trials:
        made_with = done.get(trial.key)
        if made_with is None:
            todo.append(trial)
        elif made_with != trial.config_id:
            raise ValueError(
                f"The table has {trial.key} made with {made_with}, the experiment now asks for "
                f"{trial.config_id}: the config, its overrides or the weights have changed. Rows "
                "of both would not be comparable. Move the table away, or start anew with --fresh."
            )
    return todo


_REQUIRED = {"name", "captions", "seeds", "methods", "table"}
_OPTIONAL = {"overrides", "evaluation", "assets", "floors"}
_METHOD_KEYS = {"config", "overrides", "seeds", "per_relation"}


def _check_keys(loaded: dict[str, Any], path: Path) -> None:
    missing, unknown = _REQUIRED - set(loaded), set(loaded) - _REQUIRED - _OPTIONAL
    if missing or unknown:
        raise ValueError(
            f"{path}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}. "
            f"Required are {sorted(_REQUIRED)}, allowed are {sorted(_OPTIONAL)}."
        )
    for method, spec in loaded["methods"].items():
        if "config" not in spec or not set(spec) <= _METHOD_KEYS:
            raise ValueError(
                f"{path}: methods.{method} has the keys {sorted(spec)}. It needs `config`; allowed "
                f"are {sorted(_METHOD_KEYS)}."
            )


def _captions(spec: list[str] | dict[str, Any], captions_of: CaptionSource) -> list[str]:
    if isinstance(spec, list):
        return spec
    return captions_of(spec["split"], spec["per_relation"])


def _captions_of_method(
    method: str, spec: dict[str, Any], captions: list[str] | dict[str, Any], of: CaptionSource
) -> list[str]:
    """Return the captions of one method: all, or the first `per_relation` of each relation."""
    limit = spec.get("per_relation")
    if limit is None:
        return _captions(captions, of)
    key = f"methods.{method}.per_relation"
    if isinstance(captions, list):
        raise ValueError(
            f"{key} is {limit}, but `captions` is a list. Give `captions` as {{split, "
            "per_relation}, or leave the method's key out."
        )
    if type(limit) is not int or not 1 <= limit <= captions["per_relation"]:
        raise ValueError(
            f"{key} is {limit}; it must be an integer from 1 to {captions['per_relation']}, the "
            "`per_relation` of `captions`."
        )
    return of(captions["split"], limit)


def _config_id(config: Path, overrides: tuple[str, ...], weights: str) -> str:
    text = "\n".join((config.read_text(encoding="utf-8"), *overrides, weights))
    return f"{config.name}@{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _digest_assets(root: Path, folders: list[str]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".safetensors", ".json"):
                digest.update(file.relative_to(root).as_posix().encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()
