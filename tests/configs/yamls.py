"""What the tests of YAMLs share: where they are, how a run of one is made tiny, what it logged."""

import csv
from pathlib import Path

from omegaconf import OmegaConf

from tests.end_to_end import tiny_world

ROOT = Path(__file__).resolve().parents[2]
FIRST_STAGES = {
    "magic3d-refine-sd": "magic3d-coarse-sd",
    "prolificdreamer-geometry": "prolificdreamer",
    "prolificdreamer-geometry-reward-sds": "prolificdreamer",
    "prolificdreamer-texture": "prolificdreamer-geometry",
    "prolificdreamer-texture-reward-vsd": "prolificdreamer-geometry",
}
"""Later stages, and what they can start from."""


def tiny(path: Path, world: dict[str, str], out: Path) -> list[str]:
    """Return the overrides that run a YAML on tiny random models; see `tiny_world.overrides`."""
    return tiny_world.overrides(OmegaConf.to_container(OmegaConf.load(path)), world, out)


def logged(trial_dir: str, column: str = "train/loss") -> list[float]:
    """Return a column of what the newest training of a run folder logged, one value a step."""
    path = sorted(Path(trial_dir).glob("csv_logs/*/metrics.csv"))[-1]
    with path.open() as file:
        return [float(row[column]) for row in csv.DictReader(file) if row["train/loss"]]
