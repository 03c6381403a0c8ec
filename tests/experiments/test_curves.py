"""Charts: values land where the axes say."""

import pytest
from PIL import Image

from curves import HEIGHT, LINE, WIDTH, Axes, Chart, Point, draw_charts

POINTS = [Point(400, 10.0, 5.0, 15.0, "1"), Point(2400, 90.0, 85.0, 95.0, "6")]


def test_the_horizontal_axis_is_logarithmic():
    axes = Axes(0, 0, POINTS)
    assert axes.x(800) - axes.x(400) == pytest.approx(axes.x(1600) - axes.x(800))
    assert axes.left < axes.x(400) < axes.x(2400) < axes.right
    assert axes.x_ticks == [500, 1000, 2000]


def test_the_vertical_axis_has_round_steps_and_holds_all_intervals():
    axes = Axes(0, 0, POINTS)
    assert axes.y_ticks == [0, 50, 100]
    assert (axes.y(0), axes.y(100)) == (axes.bottom, axes.top)
    assert axes.y(25) == pytest.approx(axes.bottom - (axes.bottom - axes.top) / 4)


def test_equal_values_still_have_an_axis():
    axes = Axes(0, 0, [Point(400, 100.0, 100.0, 100.0, "1")])
    assert axes.y_low <= 100 <= axes.y_high and axes.y(100) >= axes.top


def test_points_are_drawn_where_they_stand(tmp_path):
    charts = [Chart("N", "right %", POINTS), Chart("S", "right %", POINTS[:1])]
    draw_charts([charts], tmp_path / "c.png")
    picture = Image.open(tmp_path / "c.png")
    assert picture.size == (2 * WIDTH, HEIGHT)
    axes = Axes(WIDTH, 0, POINTS)  # the second chart shares the axes of the first
    drawn = axes.x(400), axes.y(10.0)
    left = Axes(0, 0, POINTS)
    assert picture.getpixel((round(left.x(2400)), round(left.y(90.0)))) == LINE
    column = [picture.getpixel((x, round(drawn[1]))) for x in range(WIDTH, 2 * WIDTH)]
    assert LINE in column
