"""Turn an experiment's table into a page: rates, differences with intervals, pictures.

Called with the experiment's YAML, as `run.py` (the YAMLs' headers have the command).

Writes `<table>.md` and, when the runs' pictures are on this machine, `<table>.png`, beside the CSV;
a picture made elsewhere is kept. For an experiment that makes pictures see `picture_report.py`.
"""

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from floors import floor_table
from measures import compare, measured
from pictures import Cell, draw_grid
from plan import Experiment, check_rows, load_experiment
from rows import Row, read_rows
from run import block_captions, prepare

RELATIONS = ("on the left of", "on the right of", "on top of", "under")
RATES = ("relation", "looks", "all")


def main(argv: list[str] | None = None) -> int:
    """Write the report; exit code 2 if there is nothing to report, or the experiment is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("experiment", help="experiment YAML")
    parser.add_argument("--per-relation", type=int, default=2, help="captions in the picture")
    args = parser.parse_args(argv)
    prepare(threads=1)
    try:
        experiment = load_experiment(Path(args.experiment), block_captions)
        rows = planned_rows(experiment)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if not rows:
        sys.stderr.write(f"{experiment.table} has no rows yet: run {args.experiment} first.\n")
        return 2
    if experiment.batch:
        page = importlib.import_module("picture_report").write_pictures(experiment, rows)
    else:
        page = write_scenes(experiment, rows, args.per_relation)
    sys.stdout.write(f"{page}\n")
    return 0


def write_scenes(experiment: Experiment, rows: list[Row], per_relation: int) -> Path:
    """Write page and picture of scenes in 3D; returns the page's path."""
    picture = experiment.table.with_suffix(".png")
    drawn = draw_gallery(experiment, rows, per_relation, picture)
    page = experiment.table.with_suffix(".md")
    page.write_text(render(experiment, rows, picture.name if drawn else None), encoding="utf-8")
    return page


def planned_rows(experiment: Experiment) -> list[Row]:
    """Read the rows that belong to the experiment as it is written now.

    Raises:
        ValueError: If some were made with another config, other overrides or other weights.
    """
    rows = read_rows(experiment.table, experiment.row_kind)
    check_rows(experiment, rows)
    wanted, batches = {trial.key for trial in experiment.trials}, experiment.shared_batches()
    return [replace(row, batch=batches.get(row.key)) for row in rows if row.key in wanted]


def render(experiment: Experiment, rows: list[Row], picture: str | None) -> str:
    """Write the report's markdown."""
    by_method = {
        m: [row for row in rows if row.method == m]
        for m in experiment.methods
        if any(row.method == m for row in rows)
    }
    captions = len({row.caption for row in rows})
    parts = [
        f"# {experiment.name}",
        f"{len(rows)} of {len(experiment.trials)} runs on {captions} captions. Written by",
        commands(experiment),
        machine(rows),
        "## Rates\n\n" + method_table(by_method),
        "## Against the baseline\n\nPoints, paired by caption and seed, with 95 % intervals "
        "(bootstrap clustered by caption, 10,000 resamples; where captions are all equal, Clopper "
        "and Pearson on their number). A run draws from sha256(caption, seed): the methods of a "
        "pair share their noise, two captions do not.\n\n" + difference_table(by_method),
    ]
    if experiment.floors:
        planned = Counter(trial.method for trial in experiment.trials)
        parts.append("## What was asked\n\n" + floor_table(by_method, experiment.floors, planned))
    parts.append("## Relation right, by relation\n\n" + relation_table(by_method))
    if picture:
        parts.append(
            "## Pictures\n\nThe first captions of each relation and the first seed, not selected: "
            "front, side, back, side.\n\n"
            f"![four views of each run]({picture})"
        )
    return "\n\n".join(parts) + "\n"


def commands(experiment: Experiment) -> str:
    """Say how table and page are made."""
    folder = "custom/threestudio-reward-sds/experiments"
    return "\n".join(
        ["```", *(f"python {folder}/{s}.py {experiment.source}" for s in ("run", "report")), "```"]
    )


def machine(rows: list[Row]) -> str:
    """Say what the rows were made on and from, and how long that took."""
    setups: dict[tuple[str, str, int], list[float]] = {}
    for row in rows:
        setups.setdefault((row.device, row.torch, row.threads), []).append(row.seconds)
    made = []
    for (device, torch, threads), seconds in sorted(setups.items()):
        used, unit = (threads, "core") if device == "cpu" else (1, device)
        made.append(
            f"{device}, torch {torch}, {threads} threads a run: {len(seconds)} runs in "
            f"{sum(seconds) * used / 3600:.2f} {unit} hours"
        )
    configs = sorted({row.config for row in rows})
    return f"Made on: {'; '.join(made)}. Configs: {', '.join(configs)}."


def method_table(by_method: dict[str, list[Row]]) -> str:
    """Rates in percent, mean reward, cost per run."""
    lines = [
        "| method | runs | relation right % | shape and colour right % | all right % | reward "
        "| network images | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for method, rows in by_method.items():
        rates = " | ".join(f"{fmean(measured(rows, m).values()):.1f}" for m in RATES)
        reward = fmean(row.reward for row in rows)
        calls, seconds = fmean(r.unet_calls for r in rows), fmean(r.seconds for r in rows)
        lines.append(
            f"| {method} | {len(rows)} | {rates} | {reward:.3f} | {calls:.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def baseline_of(method: str, methods: Collection[str]) -> str | None:
    """Return the method that another one's name ends in: "sds" of "reward-sds"."""
    return next((name for name in methods if method.endswith(f"-{name}")), None)


def difference_table(by_method: dict[str, list[Row]]) -> str:
    """Every method minus its baseline."""
    lines = [
        "| difference | pairs | relation | shape and colour | all | reward |",
        "|---|---|---|---|---|---|",
    ]
    for method in by_method:
        baseline = baseline_of(method, by_method)
        if baseline is None:
            continue
        pair = by_method[method], by_method[baseline]
        found = [compare(*pair, measure).text(1, "+") for measure in RATES]
        reward = compare(*pair, "reward")
        cells = " | ".join([*found, reward.text(2, "+")])
        lines.append(f"| {method} minus {baseline} | {reward.pairs} | {cells} |")
    return "\n".join(lines)


def relation_table(by_method: dict[str, list[Row]]) -> str:
    """Relation right in percent, per relation of the caption."""
    header = f"| method | {' | '.join(RELATIONS)} |\n|---|---|---|---|---|"
    lines = [header]
    for method, rows in by_method.items():
        cells = []
        for relation in RELATIONS:
            oks = [row.relation_ok for row in rows if f" {relation} " in row.caption]
            cells.append(f"{100 * fmean(oks):.0f} ({sum(oks)}/{len(oks)})" if oks else "-")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_gallery(experiment: Experiment, rows: list[Row], per_relation: int, path: Path) -> bool:
    """Draw the first captions of each relation, a column per method, if the views are here.

    If some are missing, a picture that is already there is kept. Returns whether there is one.
    """
    seed = min(row.seed for row in rows)
    captions: list[str] = []
    for relation in RELATIONS:
        named = dict.fromkeys(r.caption for r in rows if f" {relation} " in r.caption)
        captions += list(named)[:per_relation]
    found = {row.key: row for row in rows}
    grid, missing = [], 0
    for caption in captions:
        line: list[Cell | None] = []
        for method in experiment.methods:
            row, strip = (
                found.get((method, caption, seed)),
                experiment.picture(method, caption, seed),
            )
            seen = row is not None and strip.exists()
            missing += row is not None and not seen
            line.append(Cell(strip, verdict_line(row), row.relation_ok) if seen else None)
        grid.append((caption, line))
    if not any(cell for _, line in grid for cell in line) or (missing and path.exists()):
        return path.exists()
    draw_grid(grid, experiment.methods, path)
    return True


def verdict_line(row: Row) -> str:
    """Say which of the three the judge found right."""
    marks = {"shape": row.shape_ok, "colour": row.color_ok, "relation": row.relation_ok}
    return ", ".join(f"{name} {'right' if ok else 'wrong'}" for name, ok in marks.items())


if __name__ == "__main__":
    sys.exit(main())
