"""Draw the views of several runs as one labelled picture (PIL only)."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

INK, RIGHT, WRONG, PAPER = (25, 25, 25), (20, 120, 50), (180, 40, 30), (255, 255, 255)
MARGIN = 10
LINE = 22
"""Height of a line of text in pixels."""


@dataclass(frozen=True)
class Cell:
    """One run: its strip of views, a line of text, and whether that line is good news."""

    strip: Path
    text: str
    good: bool


def draw_grid(
    grid: list[tuple[str, list[Cell | None]]], columns: list[str], path: Path, scale: int = 1
) -> None:
    """Save a table of strips: a caption above each row, a method above each column.

    Args:
        grid: Rows of (title, one cell per column); None leaves a gap.
        columns: Titles of the columns.
        path: Where the picture goes.
        scale: Enlargement of the strips, a whole number, nearest neighbour.
    """
    width, height = _strip_size(grid, scale)
    step_x, step_y = width + MARGIN, height + 2 * LINE + MARGIN
    size = (MARGIN + step_x * len(columns), MARGIN + LINE + step_y * len(grid))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for x, column in enumerate(columns):
        write_text(draw, (MARGIN + x * step_x, MARGIN // 2), column, INK, 17)
    for y, (title, cells) in enumerate(grid):
        top = MARGIN + LINE + y * step_y
        write_text(draw, (MARGIN, top), title, INK, 15)
        for x, cell in enumerate(cells):
            if cell is None:
                continue
            left = MARGIN + x * step_x
            strip = Image.open(cell.strip).convert("RGB")
            strip = strip.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(strip, (left, top + LINE))
            mark = (left, top + LINE + height + 2)
            write_text(draw, mark, cell.text, RIGHT if cell.good else WRONG, 13)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


def draw_rows(rows: list[tuple[str, Cell, list[str]]], title: str, path: Path, scale: int) -> None:
    """Save one strip per row with its name above and several lines of text beside it.

    Args:
        rows: (name, cell, lines beside the strip).
        title: Line above everything.
        path: Where the picture goes.
        scale: Enlargement of the strips.
    """
    width, height = _strip_size([("", [cell]) for _, cell, _ in rows], scale)
    beside = 330
    step = height + LINE + MARGIN
    size = (width + beside + 3 * MARGIN, MARGIN + 2 * LINE + step * len(rows))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    write_text(draw, (MARGIN, MARGIN), title, INK, 18)
    for index, (name, cell, lines) in enumerate(rows):
        top = MARGIN + LINE + MARGIN + index * step
        write_text(draw, (MARGIN, top), name, INK, 16)
        strip = Image.open(cell.strip).convert("RGB")
        canvas.paste(strip.resize((width, height), Image.Resampling.NEAREST), (MARGIN, top + LINE))
        left = width + 2 * MARGIN
        for number, line in enumerate([cell.text, *lines]):
            ink = (RIGHT if cell.good else WRONG) if number == 0 else INK
            write_text(draw, (left, top + LINE + number * LINE), line, ink, 14)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


def _strip_size(grid: list[tuple[str, list[Cell | None]]], scale: int) -> tuple[int, int]:
    first = next(cell for _, cells in grid for cell in cells if cell is not None)
    width, height = Image.open(first.strip).size
    return width * scale, height * scale


def write_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    ink: tuple[int, int, int],
    size: int,
) -> None:
    """Write one line; `at` is its upper left corner, `size` the font's in pixels."""
    draw.text(at, text, fill=ink, font=ImageFont.load_default(size))
