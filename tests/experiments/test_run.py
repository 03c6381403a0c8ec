"""The runner: resumes, survives failing runs, does not depend on the number of processes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import run as run_module
from plan import Evaluation, Experiment, Trial, load_experiment, pending_batches
from rows import PictureRow, append_rows, read_rows
from run import block_captions, check_judged, execute, main, prepare, select, standing
from tests.experiments.samples import ROW


def fake_run(batch, evaluation, folder, pictures):
    """Runs that are over at once; caption "bad" fails."""
    if any(trial.caption == "bad" for trial in batch):
        raise RuntimeError("no such luck")
    return [
        dataclasses.replace(
            ROW,
            method=trial.method,
            caption=trial.caption,
            seed=trial.seed,
            config=trial.config_id,
            relation_ok=trial.method == "reward-sds",
        )
        for trial in batch
    ]


def fake_pictures(batch, evaluation, folder, pictures):
    rows = fake_run(batch, evaluation, folder, pictures)
    return [PictureRow(**vars(row), outside=None, picture="") for row in rows]


def never(batch, evaluation, folder, pictures):
    raise AssertionError("nothing was left to run")


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trials = [
        Trial(method, caption, 0, "a.yaml", (), "a.yaml@1")
        for caption in ("one", "two")
        for method in ("sds", "reward-sds")
    ]
    return Experiment("tiny", trials, tmp_path / "t.csv", Evaluation(), [], Path("tiny.yaml"))


def test_killed_and_started_again_makes_every_run_once(experiment):
    assert execute(experiment, experiment.batches[:3], 0, 1, fake_run) == 0
    assert execute(experiment, experiment.batches[3:], 0, 1, fake_run) == 0
    assert [row.key for row in read_rows(experiment.table)] == [t.key for t in experiment.trials]


def test_nothing_left_runs_nothing(experiment):
    assert execute(experiment, [], 0, 1, never) == 0


def test_a_failing_run_is_noted_and_the_others_go_on(experiment, capsys):
    bad = dataclasses.replace(experiment.trials[0], caption="bad")
    assert execute(experiment, [(bad,), *experiment.batches[1:]], 0, 1, fake_run) == 1
    assert len(read_rows(experiment.table)) == 3
    assert "no such luck" in (experiment.folder / "failures.log").read_text()
    assert "no such luck" in capsys.readouterr().err


def test_rows_of_a_batch_are_written_together_and_only_once(experiment):
    """The batch of "sds" was torn: the one row it has is made again."""
    experiment = dataclasses.replace(experiment, batch=2)
    sds, reward = experiment.batches
    append_rows(experiment.table, fake_pictures(sds[:1], None, None, []))
    todo = pending_batches(experiment, read_rows(experiment.table, PictureRow))
    assert todo == [sds, reward]
    assert execute(experiment, todo, 0, 1, fake_pictures) == 0
    made = [row.key for row in read_rows(experiment.table, PictureRow)]
    assert made == [trial.key for trial in (*sds, *reward)]


def test_some_runs_can_be_selected(experiment):
    todo, known = experiment.batches, experiment.methods
    assert select(todo, known, None, None) == todo
    assert select(todo, known, ["reward-sds"], 1) == [(experiment.trials[1],)]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--methods", "sds", "vsd"], "no method vsd. --methods takes"),
        (["--limit", "0"], "or more"),
        (["--fresh", "--methods", "vsd"], "no method vsd"),
        ([], "No judge in 'nowhere'"),
    ],
)
def test_a_selection_of_nothing_is_refused_before_anything_runs(
    options, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run_module, "prepare", lambda threads: None)
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").touch()
    Path("tiny.yaml").write_text(
        "{name: tiny, captions: [a red cone], seeds: [0], methods: {sds: {config: a.yaml}}, "
        "table: t, evaluation: {judge: nowhere}}"
    )
    append_rows(Path("t"), [ROW])
    assert main(["tiny.yaml", *options]) == 2
    assert message in capsys.readouterr().err
    assert not Path("outputs").exists() and read_rows(Path("t")) == [ROW]


@pytest.mark.parametrize("option", ["--workers", "--threads"])
@pytest.mark.parametrize("value", ["0", "-1", "two"])
def test_none_at_a_time_is_refused(option, value, capsys):
    with pytest.raises(SystemExit):
        main(["tiny.yaml", f"{option}={value}"])
    assert f"{value} is not a whole number of 1 or more" in capsys.readouterr().err


def test_a_caption_that_cannot_be_judged_is_refused_before_anything_runs(experiment):
    """Of an edit both sides are looked at."""
    judge = Evaluation(judge=run_module.ROOT / "load/blocks/judge")
    trials = [dataclasses.replace(experiment.trials[0], caption="a red cube -> a hamburger")]
    wrong = dataclasses.replace(experiment, evaluation=judge, trials=trials)
    with pytest.raises(ValueError, match="'a hamburger' is not a solid of the blocks world"):
        check_judged(wrong)


def test_a_finished_table_is_said_to_be_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_module, "prepare", lambda threads: None)
    monkeypatch.setattr(run_module, "check_judged", lambda experiment: None)
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").touch()
    Path("tiny.yaml").write_text(
        "{name: tiny, captions: [a cone], seeds: [0], methods: {sds: {config: a.yaml}}, table: t}"
    )
    (trial,) = load_experiment(Path("tiny.yaml"), block_captions).trials
    row = dataclasses.replace(ROW, caption="a cone", seed=0, config=trial.config_id)
    append_rows(Path("t"), [row])
    assert main(["tiny.yaml"]) == 0
    assert "in the table already, nothing is run" in capsys.readouterr().out


def test_edits_stand_in_place_of_captions():
    captions = block_captions("dev", edits=6)
    assert len(set(captions)) == 6 and all(" -> " in caption for caption in captions)
    sources = [caption.split(" -> ")[0] for caption in captions]
    assert set(sources) < set(block_captions("dev", 40))


def test_standing_counts_relations_per_method(experiment):
    execute(experiment, experiment.batches, 0, 1, fake_run)
    assert standing(read_rows(experiment.table)) == "sds 0/2 reward-sds 2/2"


def test_a_process_sees_one_gpu_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_module.sys, "path", [str(tmp_path)])
    monkeypatch.setattr(run_module.os, "environ", environment := {})
    prepare(threads=3)
    assert environment["CUDA_VISIBLE_DEVICES"] == "0" and environment["OMP_NUM_THREADS"] == "3"
    environment["CUDA_VISIBLE_DEVICES"] = "1,2"
    prepare(threads=1)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,2"


@pytest.mark.slow
def test_processes_make_the_same_rows(experiment):
    assert execute(experiment, experiment.batches, 2, 1, fake_run) == 0
    made = {row.key for row in read_rows(experiment.table)}
    assert made == {trial.key for trial in experiment.trials}


RUNNER = """
import multiprocessing, subprocess, sys

sys.path.insert(0, {folder!r})
import run

def work(started):
    run.end_with_parent()
    started.set()
    __import__("time").sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    worker = context.Process(target=work, args=(started,))
    worker.start()
    started.wait()
    print("started", flush=True)
    worker.join()
"""


@pytest.mark.slow
def test_the_workers_of_a_killed_runner_end(tmp_path):
    script = tmp_path / "runner.py"
    script.write_text(RUNNER.format(folder=str(Path(run_module.__file__).parent)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as runner:
        assert runner.stdout.readline()
        runner.kill()
        # ends when the worker, which holds the pipe too and would sleep for ten minutes, is gone
        assert runner.stdout.read() == b""
