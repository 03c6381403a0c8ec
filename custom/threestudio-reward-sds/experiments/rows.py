"""The CSV of an experiment: one row per run, and a killed runner leaves no half row behind."""

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One run of one method on one caption and seed."""

    method: str
    caption: str
    seed: int
    """As the experiment counts; the run draws from `trial.run_seed(caption, seed)`."""
    shape_ok: bool
    """Every solid of the caption has the right shape, says the judge."""
    color_ok: bool
    """Every solid of the caption has the right colour."""
    relation_ok: bool
    """The solids stand where the caption puts them."""
    reward: float
    """Mean reward of the four canonical views of the result, the same scorer for every method."""
    unet_calls: int
    """Images that the denoising network evaluated in the whole run."""
    seconds: float
    """Wall-clock time of the run, loading included, imports not."""
    config: str
    """YAML name and a digest of its text, the overrides and the weights; digests do not mix."""
    torch: str
    threads: int
    device: str
    verdict: str
    """What the judge saw, in words."""
    batch: int | None = field(default=None, kw_only=True, compare=False)
    """Which runs it shares something trained with, for the report; not a column of the table."""

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.caption, self.seed

    @property
    def looks_ok(self) -> bool:
        """Shape and colour are both right."""
        return self.shape_ok and self.color_ok


@dataclass(frozen=True)
class PictureRow(Row):
    """One picture. `reward` is that of the picture as a front view, `seconds` and `unet_calls` are
    its share of the batch that it was made in."""

    outside: float | None
    """Of an edit: mean absolute difference to the source, in [0, 1], where nothing may change."""
    picture: str
    """Digest of the picture's bytes: a rerun with the same torch and threads has the same."""


def read_rows(path: Path, kind: type[Row] = Row) -> list[Row]:
    """Read the finished runs; a torn last line (killed while writing) is removed from the file.

    Args:
        path: The table; without it there are no rows.
        kind: What its rows are.

    Raises:
        ValueError: If the file is not an experiment table of this version.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        _replace(path, whole)
    reader = csv.DictReader(io.StringIO(whole))
    columns = tuple(_types(kind))
    if reader.fieldnames is not None and tuple(reader.fieldnames) != columns:
        raise ValueError(
            f"{path} has the columns {reader.fieldnames}, not {list(columns)}. "
            "It was written by another version: move it away, then run again."
        )
    return [_parse(record, kind) for record in reader]


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add rows with a single write, and the header first when the file is new or empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _text(rows, header=not path.exists() or path.stat().st_size == 0)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, text.encode("utf-8"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sort_rows(path: Path, order: list[tuple[str, str, int]], kind: type[Row] = Row) -> None:
    """Rewrite a finished table in the order of the plan, whoever was faster."""
    place = {key: index for index, key in enumerate(order)}
    rows = read_rows(path, kind)
    _replace(path, _text(sorted(rows, key=lambda row: place.get(row.key, len(place)))))


def drop_rows(path: Path, keys: Iterable[tuple[str, str, int]], kind: type[Row] = Row) -> None:
    """Remove the rows of some runs from a table."""
    dropped, rows = set(keys), read_rows(path, kind)
    kept = [row for row in rows if row.key not in dropped]
    if len(kept) < len(rows):
        _replace(path, _text(kept))


@cache
def _types(kind: type[Row]) -> dict[str, object]:
    return {column.name: column.type for column in fields(kind) if column.compare}


def _text(rows: Iterable[Row], header: bool = True) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        if header:
            writer.writerow(_types(type(row)))
            header = False
        writer.writerow([_format(getattr(row, name)) for name in _types(type(row))])
    return buffer.getvalue()


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _format(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return " ".join(value.split())
    return value


def _parse(record: dict[str, str], kind: type[Row]) -> Row:
    return kind(**{name: _READ[of](record[name]) for name, of in _types(kind).items()})


_READ = {
    bool: lambda text: text == "1",
    int: int,
    float: float,
    float | None: lambda text: float(text) if text else None,
    str: str,
}
