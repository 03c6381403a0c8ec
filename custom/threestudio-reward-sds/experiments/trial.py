"""Make one run and look at its result: four canonical views, the judge's verdict, the reward."""

import csv
import hashlib
import importlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from canonical import VIEWS, cameras
from plan import Evaluation, Trial
from rows import Row

BACKGROUND = 0.5
"""Grey level of the canonical views, in [0, 1]."""


def run_trial(
    trial: Trial,
    evaluation: Evaluation,
    folder: Path,
    picture: Path,
    extra: tuple[str, ...] = (),
    keep: bool = False,
    run: Callable[..., Any] | None = None,
) -> Row:
    """Train one method on one caption and seed, in this process, and judge the result.

    Args:
        trial: What to run.
        evaluation: How to look at it.
        folder: Parent of the run folder.
        picture: Where the four views are saved side by side.
        extra: Overrides that come last (progress bar, number of test views).
        keep: Keep the run folder (checkpoints, logs); otherwise it is removed after the evaluation.
        run: `threestudio.run.run`, or a stand-in.
    """
    result, seconds = train(trial, [*trial_overrides(trial, folder), *extra], folder, run)
    views = canonical_views(result.system, evaluation)
    save_views(views, picture)
    verdict = judge_views(views, trial.caption, evaluation)
    row = Row(
        method=trial.method,
        caption=trial.caption,
        seed=trial.seed,
        shape_ok=bool(verdict.shape_ok),
        color_ok=bool(verdict.color_ok),
        relation_ok=bool(verdict.relation_ok),
        reward=score_views(views, trial.caption, evaluation),
        unet_calls=count_unet_calls(Path(result.trial_dir)),
        seconds=seconds,
        config=trial.config_id,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        device=views.device.type,
        verdict=verdict.text,
    )
    if not keep:
        shutil.rmtree(result.trial_dir)
    return row


def run_seed(caption: str, seed: int) -> int:
    """Derive the seed that a run draws from, in [0, 2^31).

    Every caption gets noise of its own, or all captions of an experiment would share one
    realisation. It does not depend on the method: the methods stay paired.
    """
    digest = hashlib.sha256(f"{seed}/{caption}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def run_tag(trial: Trial) -> str:
    """Name a run within its method."""
    return f"{trial.caption}-seed{trial.seed}".replace(" ", "_")


def run_folder(trial: Trial, folder: Path) -> Path:
    """Return the folder that the run will make below `folder`."""
    slug = importlib.import_module("threestudio.utils.text").slug
    return folder / slug(trial.method, "default", keep="/") / slug(run_tag(trial), "")


def train(
    trial: Trial, overrides: list[str], folder: Path, run: Callable[..., Any] | None
) -> tuple[Any, float]:
    """Train from the beginning; return what `run` returns, and the seconds that it took.

    Args:
        trial: Names the config and the run folder.
        overrides: Of the config.
        folder: Parent of the run folder.
        run: `threestudio.run.run` if None, or a stand-in.

    Raises:
        KeyboardInterrupt: If the run was interrupted.
    """
    if run is None:
        run = importlib.import_module("threestudio.run").run
    shutil.rmtree(run_folder(trial, folder), ignore_errors=True)  # what a killed run left
    started = time.perf_counter()
    result = run(trial.config, overrides, mode="train")
    seconds = time.perf_counter() - started
    if result.interrupted:
        raise KeyboardInterrupt("An interrupted run is no result.")
    return result, seconds


def trial_overrides(trial: Trial, folder: Path) -> tuple[str, ...]:
    """List a run's overrides: the method's, then caption, seed, its folder, a log of every step."""
    return (
        *trial.overrides,
        f"system.prompt_processor.prompt={trial.caption}",
        f"seed={run_seed(trial.caption, trial.seed)}",
        f"exp_root_dir={json.dumps(folder.as_posix())}",
        f"name={trial.method}",
        f"tag={json.dumps(run_tag(trial))}",
        "use_timestamp=false",
        "trainer.log_every_n_steps=1",
    )


@torch.no_grad()
def canonical_views(system: Any, evaluation: Evaluation) -> Tensor:
    """Render front, side, back and the other side on grey.

    Returns:
        RGB in [0, 1], `[4, 3, size, size]`, on the system's device.
    """
    device = next(system.geometry.parameters()).device
    grey = torch.full((1, 3), BACKGROUND, device=device)
    system.eval()
    views = []
    for batch in cameras(evaluation, evaluation.size):
        batch = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
        views.append(system.renderer(**batch, bg_color=grey)["comp_rgb"][0])
    return torch.stack(views).permute(0, 3, 1, 2).float().clamp(0, 1)


def judge_views(views: Tensor, caption: str, evaluation: Evaluation) -> Any:
    """Ask the judge, which no guidance has ever seen, whether the views show the caption."""
    judge = importlib.import_module("threestudio-blocks.judge").Judge.load(evaluation.judge)
    return judge(views.cpu(), caption)


def score_views(views: Tensor, caption: str, evaluation: Evaluation) -> float:
    """Mean reward of the views, each against the caption with its view suffix."""
    find = importlib.import_module("threestudio").find
    with_view = importlib.import_module("threestudio-blocks.captions").with_view
    reward = find(evaluation.reward_type)(dict(evaluation.reward))
    return float(reward(views, [with_view(caption, view) for view in VIEWS]).mean())


def count_unet_calls(trial_dir: Path) -> int:
    """Sum the network images of every step from the run's own metrics."""
    total = 0.0
    for path in sorted(trial_dir.glob("csv_logs/*/metrics.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for record in csv.DictReader(file):
                total += float(record.get("train/unet_calls") or 0)
    return round(total)


def save_views(views: Tensor, path: Path) -> None:
    """Save the four views side by side, losslessly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = (torch.cat(list(views.cpu()), dim=2).permute(1, 2, 0) * 255).round().byte()
    Image.fromarray(strip.numpy()).save(path)
