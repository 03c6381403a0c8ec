"""Load a finished run."""

import importlib
from pathlib import Path
from typing import Any

from run import load_extensions


def load_run(folder: Path, mode: str = "validate", overrides: tuple[str, ...] = ()) -> Any:
    """Validate or export a run again; returns its `RunResult`, with the trained system.

    Args:
        folder: Run folder, with `configs/parsed.yaml` and `ckpts/last.ckpt`.
        mode: "validate" or "export".
        overrides: Dotlist overrides.
    """
    load_extensions()
    parsed, checkpoint = folder / "configs/parsed.yaml", folder / "ckpts/last.ckpt"
    for path in (parsed, checkpoint):
        if not path.is_file():
            raise FileNotFoundError(f"'{folder}' is not the folder of a run: it has no {path}.")
    run = importlib.import_module("threestudio.run").run
    return run(str(parsed), [f"resume={checkpoint}", *overrides], mode=mode)


def only_run(folder: Path) -> Path:
    """Return the one run folder below a folder, e.g. of a method of the demo."""
    found = sorted(path.parents[1] for path in folder.rglob("ckpts/last.ckpt"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"There are {len(found)} runs below '{folder}', but one is needed. `make demo` makes "
            "outputs/demo/runs/RewardSDS."
        )
    return found[0]
