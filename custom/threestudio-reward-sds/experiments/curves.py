"""Draw curves over the number of network images, as a grid of small charts (PIL only)."""

import math
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from pictures import INK, PAPER, write_text

WIDTH, HEIGHT = 420, 286
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 50, 44
"""Space around the axes of a chart in pixels."""
GRID, LINE = (225, 225, 225), (30, 90, 170)


@dataclass(frozen=True)
class Point:
    """One method: where it stands, its 95 % interval, and what is written beside it."""

    x: float
    """Above 0; the axis is logarithmic."""
    y: float
    low: float
    high: float
    label: str


@dataclass(frozen=True)
class Chart:
    """One curve. Charts with the same `y_name` share their axes."""

    title: str
    y_name: str
    points: list[Point]


def draw_charts(rows: list[list[Chart]], path: Path) -> None:
    """Save charts as a grid.

    Args:
        rows: Charts from top to bottom, from left to right.
        path: Where the picture goes.
    """
    size = (max(len(row) for row in rows) * WIDTH, len(rows) * HEIGHT)
    canvas = Image.new("RGB", size, PAPER)
    charts = [chart for row in rows for chart in row]
    for y, row in enumerate(rows):
        for x, chart in enumerate(row):
            same = [c for c in charts if c.y_name == chart.y_name]
            axes = Axes(x * WIDTH, y * HEIGHT, [p for c in same for p in c.points])
            _draw(ImageDraw.Draw(canvas), chart, axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, optimize=True)


class Axes:
    """From values to pixels of one chart.

    Args:
        left: Left edge of the chart in pixels.
        top: Its upper edge.
        points: Everything that has to fit.
    """

    def __init__(self, left: int, top: int, points: list[Point]) -> None:
        self.left, self.right = left + LEFT, left + WIDTH - RIGHT
        self.top, self.bottom = top + TOP, top + HEIGHT - BOTTOM
        xs = [p.x for p in points]
        self.x_low, self.x_high = min(xs) / 1.3, max(xs) * 1.5
        low, high = min(p.low for p in points), max(p.high for p in points)
        self.y_step = _round_step(max(high - low, 1e-9) / 4)
        self.y_low = math.floor(low / self.y_step) * self.y_step
        self.y_high = math.ceil(high / self.y_step) * self.y_step

    def x(self, value: float) -> float:
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / max(self.y_high - self.y_low, 1e-9)
        return self.bottom - share * (self.bottom - self.top)

    @property
    def x_ticks(self) -> list[int]:
        """Round numbers within the axis, two or three in ten times."""
        ticks = [m * 10**e for e in range(7) for m in (1, 2, 5)]
        return [t for t in ticks if self.x_low <= t <= self.x_high]

    @property
    def y_ticks(self) -> list[float]:
        count = round((self.y_high - self.y_low) / self.y_step)
        return [self.y_low + i * self.y_step for i in range(count + 1)]


def _round_step(step: float) -> float:
    """Return the next larger of 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _draw(draw: ImageDraw.ImageDraw, chart: Chart, axes: Axes) -> None:
    write_text(draw, (axes.left, axes.top - 42), f"{chart.title}: {chart.y_name}", INK, 14)
    for value in axes.y_ticks:
        y = axes.y(value)
        draw.line((axes.left, y, axes.right, y), GRID)
        write_text(draw, (axes.left - 44, y - 8), f"{value:g}", INK, 12)
    for value in axes.x_ticks:
        x = axes.x(value)
        draw.line((x, axes.top, x, axes.bottom), GRID)
        write_text(draw, (x - 12, axes.bottom + 6), f"{value}", INK, 12)
    write_text(draw, (axes.left, axes.bottom + 24), "network images a picture", INK, 12)
    at = [(axes.x(p.x), axes.y(p.y)) for p in chart.points]
    if len(at) > 1:
        draw.line(at, LINE, 2)
    for index, (point, (x, y)) in enumerate(zip(chart.points, at, strict=True)):
        draw.line((x, axes.y(point.low), x, axes.y(point.high)), LINE)
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), LINE)
        top = axes.y(point.low) + 2 if index % 2 else axes.y(point.high) - 16  # room for neighbours
        write_text(draw, (x - 3 * len(point.label), top), point.label, INK, 12)
