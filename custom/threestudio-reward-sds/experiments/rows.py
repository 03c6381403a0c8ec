"""The CSV of an experiment: one row per run, and a killed runner leaves no half row behind."""

import csv
import io
import os
from dataclasses import dataclass, fields
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

    @property
    def key(self) -> tuple[str, str, int]:
        return self.method, self.caption, self.seed

    @property
    def looks_ok(self) -> bool:
        """Shape and colour are both right."""
        return self.shape_ok and self.color_ok


COLUMNS = tuple(field.name for field in fields(Row))
_TYPES = {field.name: field.type for field in fields(Row)}


def read_rows(path: Path) -> list[Row]:
    """Read the finished runs; a torn last line (killed while writing) is removed from the file.

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
    if reader.fieldnames is not None and tuple(reader.fieldnames) != COLUMNS:
        raise ValueError(
            f"{path} has the columns {reader.fieldnames}, not {list(COLUMNS)}. "
            "It was written by another version: move it away, then run again."
        )
    return [_parse(record) for record in reader]


def append_row(path: Path, row: Row) -> None:
    """Add one row with a single write, and the header first when the file is new or empty."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if not path.exists() or path.stat().st_size == 0:
        writer.writerow(COLUMNS)
    writer.writerow([_format(getattr(row, name)) for name in COLUMNS])
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, buffer.getvalue().encode("utf-8"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sort_rows(path: Path, order: list[tuple[str, str, int]]) -> None:
    """Rewrite a finished table in the order of the plan, whoever was faster."""
    place = {key: index for index, key in enumerate(order)}
    rows = sorted(read_rows(path), key=lambda row: place.get(row.key, len(place)))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_format(getattr(row, name)) for name in COLUMNS] for row in rows)
    _replace(path, buffer.getvalue())


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


def _parse(record: dict[str, str]) -> Row:
    read = {bool: lambda text: text == "1", int: int, float: float, str: str}
    return Row(**{name: read[_TYPES[name]](record[name]) for name in COLUMNS})
