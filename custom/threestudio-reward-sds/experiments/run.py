"""Run an experiment: methods x captions x seeds, on all cores, resumable.

Called with an experiment YAML (the YAMLs' headers have the command). Kill it whenever you like:
every finished run is a row of the CSV, and the same command does the rest.
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

from tqdm import tqdm

from plan import Evaluation, Experiment, Trial, load_experiment, pending_trials
from rows import Row, append_row, read_rows, sort_rows

ROOT = Path(__file__).resolve().parents[3]
QUIET = (
    "trainer.enable_progress_bar=false",
    "trainer.val_check_interval=1000000",
    "data.n_test_views=1",
)
"""Overrides of every run: nobody watches, and the four canonical views replace the turntable."""

TrialFunction = Callable[[Trial, Evaluation, Path, Path], Row]


def main(argv: list[str] | None = None) -> int:
    """Run what is missing; exit code 1 if a run failed, 2 if the experiment cannot be run."""
    args = _parse_arguments(argv)
    prepare(args.threads)
    try:
        experiment = load_experiment(Path(args.experiment), block_captions)
        if args.fresh:
            experiment.table.unlink(missing_ok=True)
        todo = pending_trials(experiment.trials, read_rows(experiment.table))
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    workers = min(args.workers or max(1, (os.cpu_count() or 1) // args.threads), max(1, len(todo)))
    failures = execute(experiment, todo[: args.limit], workers, args.threads)
    if len(read_rows(experiment.table)) == len(experiment.trials):
        sort_rows(experiment.table, [trial.key for trial in experiment.trials])
    sys.stdout.write(f"{experiment.table}\n")
    return 1 if failures else 0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="experiment YAML")
    parser.add_argument("--workers", type=int, help="runs at a time (default: cores / threads)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per run")
    parser.add_argument("--limit", type=int, help="stop after this many runs")
    parser.add_argument("--fresh", action="store_true", help="remove the table first")
    return parser.parse_args(argv)


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


def block_captions(split: str, per_relation: int) -> list[str]:
    """List the pair captions of a split of the blocks world, balanced over the four relations."""
    load_extensions()
    captions = importlib.import_module("threestudio-blocks.captions")
    return [str(caption) for caption in captions.pair_captions(split, per_relation)]


def load_extensions() -> None:
    """Load `custom/` the way `launch.py` does."""
    importlib.import_module("threestudio.extensions").load_extensions()


def execute(
    experiment: Experiment,
    todo: list[Trial],
    workers: int,
    threads: int,
    function: TrialFunction | None = None,
) -> int:
    """Make the runs and append their rows as they finish.

    Args:
        experiment: Where rows and pictures go.
        todo: The runs to make.
        workers: Processes; 0 runs everything in this one.
        threads: CPU threads of each.
        function: Makes one run; the default trains.

    Returns:
        Number of runs that failed; their tracebacks are in the experiment's `failures.log`.
    """
    outcomes = _here if workers == 0 else _pool
    finished = read_rows(experiment.table)
    failures = 0
    with tqdm(total=len(experiment.trials), initial=len(finished), unit="run") as bar:
        bar.set_description(experiment.name)
        for row, fault in outcomes(experiment, todo, workers, threads, function or quiet_trial):
            if row is None:
                failures += 1
                bar.write(fault.strip().splitlines()[-1], file=sys.stderr)
                _note_failure(experiment, fault)
                continue
            append_row(experiment.table, row)
            finished.append(row)
            bar.set_postfix_str(standing(finished))
            bar.update()
    return failures


def standing(rows: list[Row]) -> str:
    """Say how often each method has the relation right so far."""
    methods = dict.fromkeys(row.method for row in rows)
    counts = {m: [row.relation_ok for row in rows if row.method == m] for m in methods}
    return " ".join(f"{method} {sum(oks)}/{len(oks)}" for method, oks in counts.items())


def quiet_trial(trial: Trial, evaluation: Evaluation, folder: Path, picture: Path) -> Row:
    """Train without progress bar and turntable."""
    load_extensions()
    return importlib.import_module("trial").run_trial(trial, evaluation, folder, picture, QUIET)


Outcome = tuple[Row | None, str]


def _here(
    experiment: Experiment, todo: list[Trial], workers: int, threads: int, function: TrialFunction
) -> Iterable[Outcome]:
    for trial in todo:
        yield _attempt(function, trial, experiment)


def _pool(
    experiment: Experiment, todo: list[Trial], workers: int, threads: int, function: TrialFunction
) -> Iterable[Outcome]:
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(experiment.folder / "logs", threads),
    )
    try:
        futures = [pool.submit(_attempt, function, trial, experiment) for trial in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        yield None, f"A worker died (out of memory?). See {experiment.folder / 'logs'}; run again."
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _attempt(function: TrialFunction, trial: Trial, experiment: Experiment) -> Outcome:
    picture = experiment.picture(trial.method, trial.caption, trial.seed)
    try:
        return function(trial, experiment.evaluation, experiment.folder / "runs", picture), ""
    except Exception:
        return None, f"{trial}\n{traceback.format_exc()}"


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
    with (experiment.folder / "failures.log").open("a", encoding="utf-8") as file:
        file.write(fault + "\n")


if __name__ == "__main__":
    sys.exit(main())
