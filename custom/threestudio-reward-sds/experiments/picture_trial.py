"""Make a batch of pictures and look at each: the judge's verdict on the front view, the reward.

An edit is written `source -> target`. Its source is rendered from the seed that the run draws from,
and it is judged against the target.
"""

import hashlib
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from plan import ARROW, Batch, Evaluation, Trial
from rows import PictureRow
from trial import count_unet_calls, judge_views, run_seed, run_tag, save_views, train

VIEW = "front"


def run_pictures(
    batch: Batch,
    evaluation: Evaluation,
    folder: Path,
    paths: list[Path],
    extra: tuple[str, ...] = (),
    run: Callable[..., Any] | None = None,
) -> list[PictureRow]:
    """Optimise the pictures of a batch at once, in this process, and judge each of them.

    Args:
        batch: Runs of one method and seed.
        evaluation: How to look at them.
        folder: Parent of the run folder, which is removed after the evaluation.
        paths: Where each picture is saved; the source of an edit goes beside it.
        extra: Overrides that come last.
        run: `threestudio.run.run`, or a stand-in.
    """
    first, count = batch[0], len(batch)
    sources = [_save_source(trial, path) for trial, path in zip(batch, paths, strict=True)]
    overrides = [*batch_overrides(batch, sources, folder), *extra]
    result, seconds = train(first, overrides, folder, run)
    # judged is what is saved: 8 bits a colour
    pictures = (result.system.pictures().permute(0, 3, 1, 2).cpu() * 255).round() / 255
    rewards = score_pictures(pictures, [target_of(trial.caption) for trial in batch], evaluation)
    calls = count_unet_calls(Path(result.trial_dir))
    rows = []
    for trial, picture, path, reward in zip(batch, pictures, paths, rewards, strict=True):
        save_views(picture[None], path)
        verdict = judge_views(picture[None], target_of(trial.caption), evaluation)
        rows.append(
            PictureRow(
                method=trial.method,
                caption=trial.caption,
                seed=trial.seed,
                shape_ok=bool(verdict.shape_ok),
                color_ok=bool(verdict.color_ok),
                relation_ok=bool(verdict.relation_ok),
                reward=reward,
                unet_calls=round(calls / count),
                seconds=seconds / count,
                config=trial.config_id,
                torch=torch.__version__,
                threads=torch.get_num_threads(),
                device=next(result.system.parameters()).device.type,
                verdict=verdict.text,
                outside=change_outside(trial, picture),
                picture=hashlib.sha256(Image.open(path).tobytes()).hexdigest()[:12],
            )
        )
    shutil.rmtree(result.trial_dir)
    return rows


def target_of(caption: str) -> str:
    """Return what the picture shall show: the caption, or the target of an edit."""
    return caption.rpartition(ARROW)[2]


def source_path(path: Path) -> Path:
    """Return where the source of an edit is saved that ends in `path`."""
    return path.with_name(f"source-{path.name}")


def batch_overrides(batch: Batch, sources: list[Path | None], folder: Path) -> tuple[str, ...]:
    """List a batch's overrides: the method's, then captions, seeds, sources of edits, its folder, a
    log of every step.
    """
    first = batch[0]
    seeds = [run_seed(trial.caption, trial.seed) for trial in batch]
    edits = ()
    if any(sources):
        paths, texts = map(str, sources), [trial.caption.split(ARROW)[0] for trial in batch]
        edits = (
            f"system.guidance.source_image={json.dumps(list(paths))}",
            f"system.guidance.source_prompts={json.dumps(texts)}",
            f"system.guidance.source_prompt={json.dumps(texts[0])}",
        )
    return (
        *first.overrides,
        f"system.prompt_processor.prompts={json.dumps([target_of(t.caption) for t in batch])}",
        f"system.prompt_processor.prompt={json.dumps(target_of(first.caption))}",
        f"data.seeds={json.dumps(seeds)}",
        f"seed={seeds[0]}",
        *edits,
        f"exp_root_dir={json.dumps(folder.as_posix())}",
        f"name={first.method}",
        f"tag={json.dumps(run_tag(first))}",
        "use_timestamp=false",
        "trainer.log_every_n_steps=1",
    )


def score_pictures(pictures: Tensor, captions: list[str], evaluation: Evaluation) -> list[float]:
    """Return the reward of each picture as the front view of its caption."""
    find = importlib.import_module("threestudio").find
    with_view = importlib.import_module("threestudio-blocks.captions").with_view
    reward = find(evaluation.reward_type)(dict(evaluation.reward))
    return reward(pictures, [with_view(caption, VIEW) for caption in captions]).tolist()


def change_outside(trial: Trial, picture: Tensor) -> float | None:
    """Return how much an edit changed what it should not (`distance_outside`); None without one."""
    if ARROW not in trial.caption:
        return None
    edits, edit = importlib.import_module("threestudio-blocks.edits"), parse_edit(trial.caption)
    seed = run_seed(trial.caption, trial.seed)
    source = edits.front_picture(edit.source, seed)
    return edits.distance_outside(picture, source, edits.changed_region(edit, seed))


def parse_edit(caption: str) -> Any:
    """Read `source -> target` back into an `Edit`."""
    parse = importlib.import_module("threestudio-blocks.captions").parse_caption
    source, target = (parse(text) for text in caption.split(ARROW))
    kind = "color" if source.first.shape == target.first.shape else "shape"
    kind = "relation" if source.relation != target.relation else kind
    return importlib.import_module("threestudio-blocks.edits").Edit(kind, source, target)


def _save_source(trial: Trial, path: Path) -> Path | None:
    if ARROW not in trial.caption:
        return None
    edits, edit = importlib.import_module("threestudio-blocks.edits"), parse_edit(trial.caption)
    picture = edits.front_picture(edit.source, run_seed(trial.caption, trial.seed))
    edits.save_picture(picture, source_path(path))
    return source_path(path).resolve()
