import math
import re

import pytest

from taro.view.charts import MOST_POINTS, WIDTH, Series, bar_chart, line_chart, table


def test_bars_have_heights_in_proportion_and_a_table(markup):
    first = Series(markup, [0.2, 0.4], [(0.1, 0.3), (0.2, 0.6)])
    chart = bar_chart(markup, ["a", markup], [first, Series("y", [0.1, math.nan])])
    heights = [float(height) for height in re.findall(r'<rect class="run0"[^>]* height="([\d.]+)"', chart)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert chart.count('class="run1"') == 1 and "40.0 % (20.0 % to 60.0 %)" in chart and "<td>–</td>" in chart
    assert markup not in chart


def test_bars_below_zero():
    chart = bar_chart("t", ["a", "b"], [Series("x", [-0.1, 0.2])])
    (y1, h1), (y2, h2) = re.findall(r'<rect class="run0" x="[\d.]+" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', chart)
    assert 2 * float(h1) == pytest.approx(float(h2), abs=0.3) and float(y1) == pytest.approx(float(y2) + float(h2), abs=0.2)


def test_nothing_but_zeros_is_a_chart():
    assert "<rect" in bar_chart("t", ["a"], [Series("x", [0.0])])


def test_long_lines_are_thinned_and_gaps_left_out():
    places = [float(k) for k in range(5000)]
    chart = line_chart("t", places, [Series("x", [math.nan, *places[1:]])])
    points = re.search(r'points="([^"]*)"', chart)[1].split()
    assert 100 < len(points) <= MOST_POINTS
    assert chart.count("<tr>") < 1000  # its table is thinned, too


def test_a_single_step_is_a_point():
    assert "<circle" in line_chart("t", [3.0], [Series("x", [0.5])])


def test_the_last_label_is_not_cut_off():
    chart = line_chart("t", [1.0, 100_000.0], [Series("x", [0.0, 1.0])])
    middle = float(re.search(r'<text x="([\d.]+)"[^>]* text-anchor="middle">100000<', chart)[1])
    assert middle + len("100000") / 2 * 7 <= WIDTH  # of 11 pixels' height, no digit is wider


def test_from_the_seventh_line_on_colours_come_again_with_dashes():
    chart = line_chart("t", [0.0, 1.0], [Series(str(k), [0.0, 1.0]) for k in range(8)])
    assert 'class="run5 line"' in chart and 'class="run0 again line"' in chart and 'class="key key1 again"' in chart
    assert "run6" not in chart and "key7" not in chart


def test_a_table_is_text(markup):
    assert markup not in table([markup], [[markup, markup]], markup)
