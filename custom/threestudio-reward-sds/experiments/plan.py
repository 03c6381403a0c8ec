"""An experiment: a YAML of methods x captions x seeds, turned into the list of its runs.

The YAML's keys are documented in `blocks-3d-nerf-dev.yaml` and, for pictures, in
`blocks-2d-dev.yaml`; later experiments are new YAMLs, not new code.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from groups import Group, load_groups
from rows import PictureRow, Row

ARROW = " -> "
"""Between source and target of an edit."""
CaptionSource = Callable[..., list[str]]
"""(split=, per_relation=) -> captions, or (split=, edits=) -> edits as `source -> target`."""


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


Batch = tuple[Trial, ...]
"""Runs of one method and seed that are made together; each is a row of its own."""


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
    batch: int | None = None
    """Pictures that are optimised at once; None: scenes in 3D, one a run."""
    groups: list[Group] = field(default_factory=list)
    """What the report of pictures compares."""
    sharing: frozenset[str] = frozenset()
    """Methods that train something else than the pictures, which those of a batch share: VSD's
    adapter."""

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(trial.method for trial in self.trials))

    @property
    def row_kind(self) -> type[Row]:
        return PictureRow if self.batch else Row

    @property
    def batches(self) -> list[Batch]:
        """All runs, those that are made together in one tuple; the same ones in every call."""
        counts: Counter[tuple[str, int]] = Counter()
        found: dict[tuple[str, int, int], list[Trial]] = {}
        for trial in self.trials:
            place = trial.method, trial.seed
            found.setdefault((*place, counts[place] // (self.batch or 1)), []).append(trial)
            counts[place] += 1
        return [tuple(trials) for trials in found.values()]

    def shared_batches(self) -> dict[tuple[str, str, int], int]:
        """Number the batches whose runs share something trained, by the keys of their runs."""
        return {
            trial.key: number
            for number, batch in enumerate(self.batches)
            for trial in batch
            if trial.method in self.sharing
        }

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
        ValueError: For an unknown or missing key, with the allowed ones, for a method's
            `per_relation` that is none, for no runs at all, for a wrong group, for captions that
            `captions_of` does not have, and for a file that is not YAML.
    """
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    _check_keys(loaded, path)
    trials = _trials(loaded, captions_of, root)
    idle = set(loaded["methods"]) - {trial.method for trial in trials}
    if idle or not trials:
        raise ValueError(
            f"{path} asks for no run{' of ' if idle else ''}{', '.join(sorted(idle))}: each of "
            "`captions`, `seeds` and `methods` needs an entry."
        )
    return Experiment(
        name=loaded["name"],
        trials=trials,
        table=root / loaded["table"],
        evaluation=Evaluation(**loaded.get("evaluation", {})),
        floors=loaded.get("floors", []),
        source=path,
        batch=loaded.get("batch"),
        groups=load_groups(loaded.get("groups", []), loaded["methods"]),
        sharing=frozenset(
            method
            for method, spec in loaded["methods"].items()
            if "batch" in loaded and _trains_guidance(root / spec["config"])
        ),
    )


def _trains_guidance(config: Path) -> bool:
    return OmegaConf.select(OmegaConf.load(config), "system.optimizer.params.guidance") is not None


def pending_batches(experiment: Experiment, rows: Iterable[Row]) -> list[Batch]:
    """Leave out the batches whose runs all have a row.

    Raises:
        ValueError: As `check_rows` does.
    """
    rows = list(rows)
    check_rows(experiment, rows)
    done = {row.key for row in rows}
    return [b for b in experiment.batches if any(trial.key not in done for trial in b)]


def check_rows(experiment: Experiment, rows: Iterable[Row]) -> None:
    """Check that rows are what the experiment asks for now.

    Raises:
        ValueError: If a row was made with another config, other overrides or other weights.
    """
    done = {row.key: row.config for row in rows}
    for trial in experiment.trials:
        made_with = done.get(trial.key, trial.config_id)
        if made_with != trial.config_id:
            raise ValueError(
                f"The table has {trial.key} made with {made_with}, the experiment now asks for "
                f"{trial.config_id}: the config, its overrides or the weights have changed. Rows "
                "of both would not be comparable. Move the table away, or start anew with --fresh."
            )


_REQUIRED = {"name", "captions", "seeds", "methods", "table"}
_OPTIONAL = {"overrides", "evaluation", "assets", "floors", "batch", "groups"}
_METHOD_KEYS = {"config", "overrides", "seeds", "per_relation", "captions"}
_CAPTION_KEYS = ({"split", "per_relation"}, {"split", "edits"})


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
        if "captions" in spec:
            _check_captions(spec["captions"], f"{path}: methods.{method}.captions")
    _check_captions(loaded["captions"], f"{path}: captions")
    known = [setting.name for setting in fields(Evaluation)]
    unknown = set(loaded.get("evaluation", {})) - set(known)
    if unknown:
        raise ValueError(
            f"{path}: evaluation has the unknown keys {sorted(unknown)}. Allowed are {known}."
        )
    batch = loaded.get("batch", 1)
    if not isinstance(batch, int) or batch < 1:
        raise ValueError(f"{path}: `batch` is {batch}, but must be 1 or more pictures at once.")


def _check_captions(spec: Any, key: str) -> None:
    if isinstance(spec, list) or (isinstance(spec, dict) and set(spec) in _CAPTION_KEYS):
        return
    raise ValueError(
        f"{key} is {spec}, but must be a list of captions, or {{split, per_relation}}, or {{split, "
        "edits}."
    )


def _trials(loaded: dict[str, Any], captions_of: CaptionSource, root: Path) -> list[Trial]:
    """List the runs: seed after seed, in each of them all methods of a caption, then the next."""
    weights = _digest_assets(root, loaded.get("assets", []))
    trials: list[Trial] = []
    for seed in _seeds(loaded):
        plans = []
        for method, spec in loaded["methods"].items():
            if seed not in spec.get("seeds", loaded["seeds"]):
                continue
            captions = _captions_of_method(method, spec, loaded["captions"], captions_of)
            overrides = (*_flat(loaded.get("overrides", [])), *_flat(spec.get("overrides", [])))
            # what else a picture of a batch depends on
            together = (f"batch={loaded['batch']}", *captions) if "batch" in loaded else ()
            config_id = _config_id(root / spec["config"], (*overrides, *together), weights)
            plans.append(
                [Trial(method, c, seed, spec["config"], overrides, config_id) for c in captions]
            )
        trials += [trial for turn in zip_longest(*plans) for trial in turn if trial]
    return trials


def _seeds(loaded: dict[str, Any]) -> list[int]:
    """List the experiment's seeds, then what methods have besides.

    Raises:
        ValueError: For seeds that are no list.
    """
    given = {"seeds": loaded["seeds"]}
    for name, spec in loaded["methods"].items():
        given[f"methods.{name}.seeds"] = spec.get("seeds", [])
    for key, seeds in given.items():
        if not isinstance(seeds, list):
            raise ValueError(f"{key} is {seeds}, but must be a list.")
    return list(dict.fromkeys(chain(*given.values())))


def _flat(overrides: list[str | list[str]]) -> list[str]:
    """Spread the lists that stand among overrides, which YAML's aliases make."""
    return [o for item in overrides for o in (item if isinstance(item, list) else [item])]


def _captions(spec: list[str] | dict[str, Any], captions_of: CaptionSource) -> list[str]:
    if isinstance(spec, list):
        return spec
    return captions_of(**spec)


def _captions_of_method(
    method: str, spec: dict[str, Any], captions: list[str] | dict[str, Any], of: CaptionSource
) -> list[str]:
    """Return the captions of one method: all, its own, or the first `per_relation` of each
    relation.
    """
    limit, captions = spec.get("per_relation"), spec.get("captions", captions)
    if limit is None:
        return _captions(captions, of)
    key = f"methods.{method}.per_relation"
    if "per_relation" not in captions:
        raise ValueError(
            f"{key} is {limit}, but `captions` is a list or edits. Give `captions` as {{split, "
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
