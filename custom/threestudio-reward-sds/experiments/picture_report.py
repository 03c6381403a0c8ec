"""The page of a picture experiment: a table and a test for each group, curves, galleries.

`report.py` writes it when the experiment makes pictures.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from curves import Chart, Point, draw_charts
from floors import floor_table
from groups import Group, comparable, rows_of
from measures import average, compare, measured, p_value, progress
from picture_trial import parse_edit, source_path
from pictures import Cell, draw_grid
from plan import ARROW, Experiment
from report import commands, machine
from rows import Row

HEADINGS = {
    "all": "all right %",
    "relation": "relation right %",
    "looks": "shape and colour right %",
    "reward": "optimised reward",
    "outside": "changed outside %",
}
"""Measure -> heading. The first three are the judge's, of which the first one decides; a guidance
sees the reward; the last one is of edits."""
DIGITS = {"reward": 2, "outside": 2}
"""Decimals of a measure, 1 unless given."""
ALPHA = 0.01
"""Largest p that counts as a difference."""
SCALE, GALLERY = 3, 8
"""Enlargement of the pictures of a gallery, and its captions."""
HOW_TO_READ = f"""\
The judge, a network that no guidance has seen, decides; the optimised reward stands beside it, so
that a reward that rises without the judge shows. Controls of a family: `mean` averages as many
candidates as its reward version without a reward, `long` is its baseline with more steps, of as
many network images as the reward version. Methods draw the same noise for the same caption and
seed. Rates of a family are of all runs of a method, rates and curves of an ablation of the runs
that all its methods have; differences and tests are of the runs that both methods have, and are not
read before all runs of both are made. Intervals are of 95 %, bootstrapped over captions (10,000
resamples). Where all captions are equal, as at 0 % and 100 %, that has no width: the interval is
then of the share of captions that may differ though none of so many did (Clopper and Pearson, on
the number of captions, not of pictures); next to these ends, where one or two captions differ, the
bootstrap is rather too short. A reward, which has no limits, is marked instead. p is of a paired,
two-sided permutation test over captions: the two methods are exchanged within captions, with all
seeds of one (all exchanges of up to 16 captions, 99,999 random ones of more). It tests the mean
that the table shows, and needs no distribution; Wilcoxon's ranks would mostly be ties. p is not
corrected for the number of comparisons. The reading of a difference is of judge (all right) and
reward, each at p < {ALPHA}."""
HOW_TO_READ_BATCHES = """\
Pictures by VSD that were made in one batch share the adapter, its first draw and what it learned,
so they are not independent even if their captions are. Captions come back in a batch of every seed.
For these methods both are done, over captions and over batches; the interval spans the two, and p
is the larger one. Batches are few (twelve of 120 pictures): all exchanges of them are counted, not
random ones, and an interval over so few is rather too short than too long."""


def write_pictures(experiment: Experiment, rows: list[Row]) -> Path:
    """Write `<table>.md`, its curves and, of runs of this machine, its galleries."""
    stem = experiment.table.with_suffix("")
    planned = Counter(trial.method for trial in experiment.trials)
    found = [(g, by_method) for g in experiment.groups if (by_method := rows_of(g, rows))]
    charts = curve_rows(found)
    if charts:
        draw_charts(charts, Path(f"{stem}-curves.png"))
    parts = [_header(experiment, rows)]
    for group, by_method in found:
        parts.append(group_section(group, by_method, planned))
        if group.kind == "family":
            gallery = Path(f"{stem}-{group.title.lower()}.png")
            if draw_gallery(experiment, group, by_method, gallery):
                parts.append(f"![{group.title}]({gallery.name})")
    if charts:
        parts.append(f"## Judge and reward against the cost\n\n![curves]({stem.name}-curves.png)")
    if experiment.floors:
        by_method = {m: [r for r in rows if r.method == m] for m in {r.method for r in rows}}
        asked = floor_table(by_method, experiment.floors, planned)
        parts.append("## What was asked\n\n" + asked)
    page = experiment.table.with_suffix(".md")
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def _header(experiment: Experiment, rows: list[Row]) -> str:
    return "\n\n".join(
        [
            f"# {experiment.name}",
            f"{len(rows)} of {len(experiment.trials)} pictures. Written by",
            commands(experiment),
            machine(rows),
            HOW_TO_READ,
            *([HOW_TO_READ_BATCHES] if any(row.batch is not None for row in rows) else []),
        ]
    )


def group_section(group: Group, by_method: dict[str, list[Row]], planned: Mapping[str, int]) -> str:
    """Write the tables of one group, and for a family what they say.

    Args:
        group: The group.
        by_method: Rows of each of its methods that has some.
        planned: How many rows each method will have.
    """
    parts = [f"## {group.title}", rate_table(group, by_method, planned)]
    if "outside" in _measures(by_method):
        parts.append(kind_table(group, by_method))
    if differences := difference_table(group, by_method, planned):
        parts.append(differences)
    if group.reward:
        parts.append(verdict(group, by_method, planned))
    return "\n\n".join(parts + ([group.note.strip()] if group.note else []))


def rate_table(group: Group, by_method: dict[str, list[Row]], planned: Mapping[str, int]) -> str:
    """Means with intervals, and the cost of a picture."""
    measures = _measures(by_method)
    heads = [*(HEADINGS[m] for m in measures), "network images", "seconds"]
    lines = [f"| method | runs | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for method, rows in comparable(group, by_method).items():
        made, wanted = len(by_method[method]), planned[method]
        cells = [f"{len(rows)}" if made == wanted else f"{made} of {wanted}"]
        cells += [average(rows, m).text(DIGITS.get(m, 1)) for m in measures]
        cells += [
            f"{fmean(r.unet_calls for r in rows):.0f}",
            f"{fmean(r.seconds for r in rows):.1f}",
        ]
        lines.append(f"| {group.methods[method]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kind_table(group: Group, by_method: dict[str, list[Row]]) -> str:
    """Rates of all right by what an edit asks for."""
    heads = " | ".join(group.methods[method] for method in by_method)
    lines = [f"| edit of the | runs | {heads} |", "|---" * (len(by_method) + 2) + "|"]
    by_kind: dict[str, dict[str, list[Row]]] = {}
    for method, rows in by_method.items():
        for row in rows:
            of_method = by_kind.setdefault(parse_edit(row.caption).kind, {})
            of_method.setdefault(method, []).append(row)
    for kind, of_method in by_kind.items():
        counts = "/".join(dict.fromkeys(f"{len(rows)}" for rows in of_method.values()))
        cells = [average(of_method[m], "all").text(1) if m in of_method else "-" for m in by_method]
        lines.append(f"| {kind.replace('color', 'colour')} | {counts} | {' | '.join(cells)} |")
    return "All right %, by what is edited:\n\n" + "\n".join(lines)


def difference_table(
    group: Group, by_method: dict[str, list[Row]], planned: Mapping[str, int]
) -> str:
    """The group's differences with their tests, each over the runs that both methods have."""
    measures, lines = _measures(by_method), []
    for pair in group.pairs:
        rows, baseline = (by_method.get(method, []) for method in pair)
        pairs = len(measured(rows, "all").keys() & measured(baseline, "all").keys())
        if not pairs:
            continue
        cells = [" minus ".join(group.methods[method] for method in pair), str(pairs)]
        for measure in measures:
            cells.append(compare(rows, baseline, measure).text(DIGITS.get(measure, 1), "+"))
            cells.append(p_text(p_value(rows, baseline, measure)))
        cells.append(progress(by_method, pair, planned) or reading(rows, baseline))
        lines.append(f"| {' | '.join(cells)} |")
    heads = [head for measure in measures for head in (HEADINGS[measure], "p")]
    header = f"| difference | pairs | {' | '.join(heads)} | reading |"
    return "\n".join([header, "|---" * (len(heads) + 3) + "|", *lines]) if lines else ""


def reading(rows: list[Row], baseline: list[Row]) -> str:
    """Say in words what judge and reward say of a difference, each at p < ALPHA."""
    judged, rewarded = (_direction(rows, baseline, m) for m in ("all", "reward"))
    reward = {1: "reward up", 0: "reward undecided", -1: "reward down"}[rewarded]
    if judged > 0:
        return f"better, {reward}"
    if judged < 0:
        return f"**worse**, {reward}{': the reward is hacked' if rewarded > 0 else ''}"
    if rewarded == 0:
        return "no difference shown"
    ours, theirs = measured(rows, "all"), measured(baseline, "all")
    if rewarded > 0 and min(theirs[run] for run in theirs if run in ours) == 100:
        return "reward up, judge could not rise"
    if rewarded > 0 and compare(rows, baseline, "all").mean <= 0:
        return "**reward up, judge not**"
    return f"{reward}, judge undecided"


def _direction(rows: list[Row], baseline: list[Row], measure: str) -> int:
    """Return 1 for more, -1 for less and 0 for a difference that is not significant."""
    if p_value(rows, baseline, measure) >= ALPHA:
        return 0
    return 1 if compare(rows, baseline, measure).mean > 0 else -1


def verdict(group: Group, by_method: dict[str, list[Row]], planned: Mapping[str, int]) -> str:
    """Say whom the reward version of a family beats on the judge: the baseline, every control."""
    clauses = []
    for opponent in group.opponents:
        name, pair = group.methods[opponent], (group.reward, opponent)
        if unfinished := progress(by_method, pair, planned):
            clauses.append(f"against {name}, {unfinished}")
            continue
        rows = [by_method[method] for method in pair]
        difference, p = compare(*rows, "all"), p_value(*rows, "all")
        words = "beats" if difference.mean > 0 and p < ALPHA else "does **not** beat"
        clauses.append(
            f"{words} {name} ({difference.text(1, '+')} points, p {p_text(p, '= ')}, "
            f"{difference.pairs} pairs)"
        )
    return f"On the judge, at p < {ALPHA}, {group.methods[group.reward]} {'; '.join(clauses)}."


def curve_rows(found: list[tuple[Group, dict[str, list[Row]]]]) -> list[list[Chart]]:
    """Return a row of charts for the judge and one for the reward, a column per curve."""
    curves = [
        (group, shared)
        for group, by_method in found
        if group.kind == "curve" and (shared := comparable(group, by_method))
    ]
    charts = [
        [
            Chart(
                group.title,
                HEADINGS[measure],
                [_point(group, method, rows, measure) for method, rows in by_method.items()],
            )
            for group, by_method in curves
        ]
        for measure in ("all", "reward")
    ]
    return charts if curves else []


def _point(group: Group, method: str, rows: list[Row], measure: str) -> Point:
    found = average(rows, measure)
    calls = fmean(row.unet_calls for row in rows)
    return Point(calls, found.mean, found.low, found.high, group.methods[method])


def draw_gallery(
    experiment: Experiment, group: Group, by_method: dict[str, list[Row]], path: Path
) -> bool:
    """Draw the first captions, first seed, a column per method, if their pictures are here.

    If one is missing, a gallery that is already there is kept. Returns whether there is one.
    """
    rows = next(iter(by_method.values()))
    seed = min(row.seed for row in rows)
    captions = list(dict.fromkeys(row.caption for row in rows))[:GALLERY]
    found = {row.key: row for some in by_method.values() for row in some}
    grid = []
    for caption in captions:
        line = []
        for method in by_method:
            picture = experiment.picture(method, caption, seed)
            row = found.get((method, caption, seed))
            if row is None or not picture.exists():
                return path.exists()
            line.append(Cell(picture, verdict_line(row), row.relation_ok and row.looks_ok))
        if ARROW in caption:
            source = source_path(experiment.picture(next(iter(by_method)), caption, seed))
            line.insert(0, Cell(source, "source", True))
        grid.append((caption, line))
    columns = [group.methods[method] for method in by_method]
    draw_grid(grid, columns if len(columns) == len(grid[0][1]) else ["", *columns], path, SCALE)
    return True


def verdict_line(row: Row) -> str:
    """Say what the judge found wrong."""
    marks = {"shape": row.shape_ok, "colour": row.color_ok, "relation": row.relation_ok}
    wrong = [name for name, ok in marks.items() if not ok]
    return f"wrong: {', '.join(wrong)}" if wrong else "right"


def p_text(p: float, equals: str = "") -> str:
    """Write a p-value; the smallest ones as a bound, for the exchanges are random."""
    return f"{equals}{p:.2g}" if p >= 1e-4 else "< 0.0001"


def _measures(by_method: dict[str, list[Row]]) -> list[str]:
    edits = any(row.outside is not None for rows in by_method.values() for row in rows)
    return [measure for measure in HEADINGS if measure != "outside" or edits]
