"""Drawings and numbers: for any input they are well-formed, inside their frame, and say what the input says."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src.evaluation.report import figures, words
from src.evaluation.statistics import wilson

numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])
series = st.lists(st.tuples(st.floats(0, 1e6), numbers), max_size=12)


def parsed(html: str) -> ElementTree.Element:
    """As XML: attributes without quotes get them, so that a stray mark in the text is found. Quoted ones stay."""
    attributes = r'"[^"]*"|=([A-Za-z][\w-]*)(?=[ />])'
    return ElementTree.fromstring(re.sub(attributes, lambda m: f'="{m[1]}"' if m[1] else m[0], html))


@settings(max_examples=30, deadline=None)
@given(st.lists(series, max_size=3), st.text(max_size=10))
@example([[(0.0, 0.0)]], "=A")
def test_a_chart_is_well_formed_and_stays_in_its_frame(
    given_series: list[list[tuple[float, float]]], name: str
) -> None:
    name = "".join(mark for mark in name if mark.isprintable())
    lines = [
        figures.Series(f"{name}{i}", [x for x, _ in one], [y for _, y in one])
        for i, one in enumerate(given_series)
    ]
    drawn = figures.chart("loss <&>", lines, "step", name)
    if not any(math.isfinite(y) for one in given_series for _, y in one):
        assert drawn == ""
        return
    svg = parsed(drawn).find("svg")
    assert svg is not None
    for path in svg.iter("path"):
        points = re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d") or "")
        assert points
        for x, y in points:
            assert 0 <= float(x) <= 400 and 0 <= float(y) <= 220


def test_a_long_series_is_drawn_as_means_and_keeps_its_level() -> None:
    drawn = figures.chart("x", [figures.Series("a", range(5000), [1.0] * 5000)], "step", "y")
    path = parsed(drawn).find(".//path")
    assert path is not None and len(re.findall("L", path.get("d") or "")) == 159
    assert len({y for _, y in re.findall(r"([\d.]+) ([\d.]+)", path.get("d") or "")}) == 1


def test_an_axis_over_decades_is_logarithmic_and_says_so() -> None:
    steep = figures.chart("x", [figures.Series("a", [0, 1, 2], [1000.0, 1.0, 0.01])], "step", "loss")
    flat = figures.chart("x", [figures.Series("a", [0, 1, 2], [3.0, 2.0, 1.0])], "step", "loss")
    assert "logarithmic" in steep and "logarithmic" not in flat
    heights = [float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", parsed(steep).find(".//path").get("d"))]  # type: ignore[union-attr]
    assert heights[1] - heights[0] == pytest.approx(
        1.5 * (heights[2] - heights[1]), abs=0.5
    )  # 3 decades, then 2


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    found = figures._ticks(low, low + width)
    assert 1 <= len(found) <= 9
    slack = 1e-6 * width
    assert all(low - slack <= tick <= low + width + slack for tick in found)


def test_paths_look_as_a_robot_drives() -> None:
    drawn = parsed(figures.paths("e", [(0, 0), (2, 0)], [(0, 0), (2, 1)]))
    straight, left = (
        [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", path.get("d") or "")]
        for path in drawn.iter("path")
    )
    assert straight[1][1] < straight[0][1], "ahead is up"
    assert left[1][0] < straight[1][0], "positive y is left"


def test_the_confusion_table_holds_every_count_of_the_classes_in_use() -> None:
    html = figures.confusion(["stop", "forward", "never"], [[3, 1, 0], [0, 6, 0], [0, 0, 0]])
    assert "never" not in html and html.count("class=hit") == 2
    assert [int(x) for x in re.findall(r">(\d+)<small>", html)] == [3, 1, 6]
    assert "75 %" in html and "n=4" in html and "n=6" in html


def test_words_are_the_stronger_coloured_the_more_they_matter() -> None:
    html = figures.strip([("go", 0.0), ("left", 0.2), ("<b>", 0.1), ("x", None)], full=0.2)
    strength = [float(a) for a in re.findall(r"--warm\),([\d.]+)\)", html)]
    assert (
        strength[1] == max(strength)
        and strength[2] == pytest.approx(strength[1] / 2)
        and strength[0] == strength[3] == 0
    )
    assert "&lt;b&gt;" in html and "20 %" in html


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 50))
def test_a_share_is_written_with_its_interval(hits: int, more: int) -> None:
    estimate = wilson(hits, hits + more).to_dict()
    shown = words.number(estimate)
    value, low, high = (float(x) for x in re.findall(r"[\d.]+", shown))
    assert low <= value <= high and value == pytest.approx(100 * hits / (hits + more), abs=0.51)


def test_numbers_in_words() -> None:
    def estimate(
        value: float | None, low: float | None = None, high: float | None = None
    ) -> dict[str, object]:
        return {"value": value, "low": low, "high": high, "n": 3, "interval": "bootstrap"}

    assert words.number(estimate(0.77, 0.71, 0.82)) == "77 % (71–82)"
    assert words.number(estimate(0.066, 0.062, 0.07)) == "6.6 % (6.2–7.0)"
    assert words.number(estimate(-0.1, -0.2, 0.1)) == "−10 % (−20–10)"
    assert words.number(estimate(None)) == words.number(None) == words.number(math.nan) == "–"
    assert words.number(estimate(0.1234, 0.11, 0.14), percent=False) == "0.123 (0.110–0.140)"
    assert words.number(21.4, percent=False) == "21.4"
    assert [words.seconds(s) for s in (4.21, 42, 484, 9000)] == ["4.2 s", "42 s", "8.1 min", "2.5 h"]


@pytest.mark.parametrize("mark", [-3.0, 0.0, 500.0, 899.0, 900.0, 2000.0])
def test_the_marked_checkpoint_is_drawn_inside_the_frame_wherever_it_lies(mark: float) -> None:
    """A checkpoint after the last step counts one more than the last row of the curves."""
    drawn = figures.chart("x", [figures.Series("a", [0, 450, 899], [3.0, 2.0, 1.0])], "step", "loss", mark)
    line = parsed(drawn).find(".//line[@class='mark']")
    assert line is not None
    at = float(line.get("x1") or "nan")
    points = [float(x) for x, _ in re.findall(r"([\d.]+) ([\d.]+)", parsed(drawn).find(".//path").get("d"))]  # type: ignore[union-attr]
    assert figures._LEFT <= min(points) <= max(points) <= figures._WIDE - figures._RIGHT
    assert figures._LEFT <= at <= figures._WIDE - figures._RIGHT
    assert [x < at for x in points if abs(x - at) > 0.11] == [
        x < mark for x, p in zip([0, 450, 899], points, strict=True) if abs(p - at) > 0.11
    ]


def test_counts_name_groups_where_they_are_the_units() -> None:
    frames = {"value": 0.1, "low": 0.05, "high": 0.2, "n": 113, "interval": "bootstrap", "clusters": 6}
    assert words.count(frames) == "n=113/6"
    assert words.count({**frames, "clusters": 113}) == words.count(wilson(3, 113).to_dict()) == "n=113"
    assert words.count_explained(["a", None, wilson(3, 113).to_dict()]) == ""
    assert words.count_explained([wilson(3, 9).to_dict(), frames]).startswith("n=113/6: 113 counted in 6 ")
