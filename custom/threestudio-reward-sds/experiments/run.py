"""Run an experiment: methods x captions x seeds, on all cores, resumable.

Called with an experiment YAML (the YAMLs' headers have the command). Kill it whenever you like:
every finished run is a row of the CSV, and the same command does the rest. Pictures are made in
batches, whose rows are written together.
"""

import argparse
import importlib
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from plan import ARROW, Batch, Evaluation, Experiment, load_experiment, pending_batches
from rows import Row, append_rows, drop_rows, read_rows, sort_rows

ROOT = Path(__file__).resolve().parents[3]
UNWATCHED = (
    "trainer.enable_progress_bar=false",
    "trainer.val_check_interval=1000000",
)
"""Overrides of every run: nobody watches."""
QUIET = (*UNWATCHED, "data.n_test_views=1")
"""The same for a scene in 3D, whose four canonical views replace the turntable."""
FAILURES = "failures.log"
"""File of an experiment's folder with the tracebacks of what failed."""

BatchFunction = Callable[[Batch, Evaluation, Path, list[Path]], list[Row]]
"""(runs, how to look at them, parent of their folders, where their pictures go) -> their rows."""


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; exit code 1 if a run failed, 2 if the experiment cannot be run."""
    args = _parse_arguments(argv)
    prepare(args.threads)
    try:
        experiment = load_experiment(Path(args.experiment), block_captions)
        rows = [] if args.fresh else read_rows(experiment.table, experiment.row_kind)
        todo = pending_batches(experiment, rows)
        todo = select(todo, experiment.methods, args.methods, args.limit)
        check_judged(experiment)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if args.fresh:
        experiment.table.unlink(missing_ok=True)
    if not todo:
        sys.stdout.write("All of these runs are in the table already, nothing is run.\n")
    workers = min(args.workers or max(1, (os.cpu_count() or 1) // args.threads), max(1, len(todo)))
    failures = execute(experiment, todo, workers, args.threads)
    if len(read_rows(experiment.table, experiment.row_kind)) == len(experiment.trials):
        order = [trial.key for trial in experiment.trials]
        sort_rows(experiment.table, order, experiment.row_kind)
    if failures:
        sys.stderr.write(f"{failures} failed, see {experiment.folder / FAILURES}.\n")
    if experiment.table.exists():
        sys.stdout.write(f"{experiment.table}\n")
    if args.report:
        importlib.import_module("report").main([args.experiment])
    return 1 if failures else 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="experiment YAML")
    parser.add_argument(
        "--workers", type=_positive, help="runs at a time (default: cores / threads)"
    )
    parser.add_argument("--threads", type=_positive, default=1, help="CPU threads per run")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--limit", type=int, help="stop after this many runs or batches")
    parser.add_argument("--report", action="store_true", help="write the report, too")
    parser.add_argument("--fresh", action="store_true", help="remove the table first")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return int(text)


def prepare(threads: int) -> None:
    """Work from the repository root with bounded CPU threads; call before importing torch."""
    os.chdir(ROOT)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    # one process trains one run on one device: with all GPUs visible Lightning would share it out
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["OMP_NUM_THREADS"] = str(threads)


def select(
    todo: list[Batch], known: list[str], methods: list[str] | None, limit: int | None
) -> list[Batch]:
    """Keep the first `limit` batches of some methods.

    Raises:
        ValueError: If that selects nothing: for unknown methods, and a limit below 1.
    """
    unknown = [method for method in methods or [] if method not in known]
    if unknown:
        raise ValueError(
            f"No run is selected: the experiment has no method {', '.join(unknown)}. --methods "
            f"takes some of {', '.join(known)}."
        )
    if limit is not None and limit < 1:
        raise ValueError(f"No run is selected: --limit is {limit}, but must be 1 or more.")
    return [batch for batch in todo if batch[0].method in (methods or known)][:limit]


def block_captions(
    split: str, per_relation: int | None = None, edits: int | None = None
) -> list[str]:
    """List captions of a split of the blocks world.

    Args:
        split: "train", "dev" or "held-out".
        per_relation: Pair captions of each of the four relations.
        edits: Edits (`source -> target`), the three kinds in turn, in place of captions.

    Raises:
        ValueError: For another split, and a number that it does not have.
    """
    load_extensions()
    captions = importlib.import_module("threestudio-blocks.captions")
    known = list(captions.pair_splits())
    if split not in known:
        raise ValueError(f"`split` of captions is {split}; it must be one of {', '.join(known)}.")
    most = len(captions.pair_captions(split))
    if edits is None:
        _check_count("per_relation", per_relation, most // len(captions.RELATIONS), split)
        return [str(caption) for caption in captions.pair_captions(split, per_relation)]
    _check_count("edits", edits, most, split)
    found = importlib.import_module("threestudio-blocks.edits").edits(split, edits)
    return [f"{edit.source}{ARROW}{edit.target}" for edit in found]


def _check_count(key: str, count: Any, most: int, split: str) -> None:
    if type(count) is not int or not 1 <= count <= most:
        raise ValueError(
            f"`{key}` of captions is {count}; it must be an integer from 1 to {most}, as "
            f"many as the {split} split has."
        )


def check_judged(experiment: Experiment) -> None:
    """Check before anything is trained that the judge is there and knows what to judge.

    Raises:
        FileNotFoundError: Without a judge.
        ValueError: For a caption that is not of the blocks world.
    """
    load_extensions()
    importlib.import_module("threestudio-blocks.judge").Judge.load(experiment.evaluation.judge)
    parse_caption = importlib.import_module("threestudio-blocks.captions").parse_caption
    for caption in {trial.caption for trial in experiment.trials}:
        for text in caption.split(ARROW):
            parse_caption(text)


def load_extensions() -> None:
    """Load `custom/` the way `launch.py` does."""
    importlib.import_module("threestudio.extensions").load_extensions()


def execute(
    experiment: Experiment,
    todo: list[Batch],
    workers: int,
    threads: int,
    function: BatchFunction | None = None,
) -> int:
    """Make the runs and append their rows as they finish.

    Args:
        experiment: Where rows and pictures go.
        todo: The runs to make.
        workers: Processes; 0 runs everything in this one.
        threads: CPU threads of each.
        function: Makes one batch; the default trains.

    Returns:
        Number of batches that failed; their tracebacks are in the experiment's FAILURES.
    """
    outcomes = _here if workers == 0 else _pool
    function = function or (quiet_pictures if experiment.batch else quiet_trial)
    # of a batch that lacks rows
    drop_rows(experiment.table, [t.key for b in todo for t in b], experiment.row_kind)
    finished = read_rows(experiment.table, experiment.row_kind)
    failures = 0
    with tqdm(total=len(experiment.trials), initial=len(finished), unit="run") as bar:
        bar.set_description(experiment.name)
        for rows, fault in outcomes(experiment, todo, workers, threads, function):
            if fault:
                failures += 1
                bar.write(fault.strip().splitlines()[-1], file=sys.stderr)
                _note_failure(experiment, fault)
                continue
            append_rows(experiment.table, rows)
            finished += rows
            shown = {rows[0].method} if experiment.batch else set(experiment.methods)
            bar.set_postfix_str(standing([row for row in finished if row.method in shown]))
            bar.update(len(rows))
    return failures


def standing(rows: list[Row]) -> str:
    """Say how often each method has the relation right so far."""
    methods = dict.fromkeys(row.method for row in rows)
    counts = {m: [row.relation_ok for row in rows if row.method == m] for m in methods}
    return " ".join(f"{method} {sum(oks)}/{len(oks)}" for method, oks in counts.items())


def quiet_trial(
    batch: Batch, evaluation: Evaluation, folder: Path, pictures: list[Path]
) -> list[Row]:
    """Train one scene in 3D without progress bar and turntable."""
    load_extensions()
    run_trial = importlib.import_module("trial").run_trial
    return [run_trial(batch[0], evaluation, folder, pictures[0], QUIET)]


def quiet_pictures(
    batch: Batch, evaluation: Evaluation, folder: Path, pictures: list[Path]
) -> list[Row]:
    """Optimise a batch of pictures without progress bar."""
    load_extensions()
    run_pictures = importlib.import_module("picture_trial").run_pictures
    return run_pictures(batch, evaluation, folder, pictures, UNWATCHED)


Outcome = tuple[list[Row], str]
"""Rows of a batch, and what went wrong."""


def _here(
    experiment: Experiment, todo: list[Batch], workers: int, threads: int, function: BatchFunction
) -> Iterable[Outcome]:
    for batch in todo:
        yield _attempt(function, batch, experiment)


def _pool(
    experiment: Experiment, todo: list[Batch], workers: int, threads: int, function: BatchFunction
) -> Iterable[Outcome]:
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(experiment.folder / "logs", threads),
    )
    try:
        futures = [pool.submit(_attempt, function, batch, experiment) for batch in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        yield [], f"A worker died (out of memory?). See {experiment.folder / 'logs'}; run again."
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(function: BatchFunction, batch: Batch, experiment: Experiment) -> Outcome:
    pictures = [experiment.picture(*trial.key) for trial in batch]
    try:
        return function(batch, experiment.evaluation, experiment.folder / "runs", pictures), ""
    except Exception:
        return [], f"{batch}\n{traceback.format_exc()}"


def _start_worker(logs: Path, threads: int) -> None:
    """Send everything a run prints to a log file, bound its threads, and end with the runner."""
    end_with_parent()
    prepare(threads)
    logs.mkdir(parents=True, exist_ok=True)
    log = (logs / f"worker-{os.getpid()}.log").open("w", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    importlib.import_module("torch").set_num_threads(threads)


def end_with_parent() -> None:
    """End this process when its runner is gone: a killed one cannot stop its workers."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _note_failure(experiment: Experiment, fault: str) -> None:
    experiment.folder.mkdir(parents=True, exist_ok=True)
    with (experiment.folder / FAILURES).open("a", encoding="utf-8") as file:
        file.write(fault + "\n")


if __name__ == "__main__":
    sys.exit(main())
