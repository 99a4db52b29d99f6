"""The figure: every mean, interval and seed is drawn where it belongs, in three sound files, whatever the names."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from PIL import Image

from src.comparison.render import figure, words
from src.comparison.render.letters import romanised
from src.comparison.table import Row, Table
from tests.comparison import render_sample as sample


def drawn(table: Table) -> Any:
    """The matplotlib figure before it becomes a file."""
    made = Figure()
    texts = [row.arm for row in table.rows]
    figure._draw(made, table, figure.Letters(texts))
    return made


def test_the_files_are_what_they_say() -> None:
    files = figure.render(sample.empty())
    assert files["figure.pdf"].startswith(b"%PDF-") and files["figure.pdf"].rstrip().endswith(b"%%EOF")
    assert b"/Type3" not in files["figure.pdf"] and b"/FontFile2" in files["figure.pdf"], (
        "embedded as TrueType"
    )
    assert b"CreationDate" not in files["figure.pdf"]
    svg = ElementTree.fromstring(files["figure.svg"])
    assert (
        svg.tag.endswith("svg")
        and b"<dc:date>" not in files["figure.svg"]
        and b"<text" not in files["figure.svg"]
    )
    with Image.open(io.BytesIO(files["figure.png"])) as png:
        assert png.info["dpi"] == pytest.approx((200, 200), abs=0.1) and png.width > 400


@pytest.mark.slow
def test_the_same_table_gives_the_same_bytes() -> None:
    assert figure.render(sample.crossed()) == figure.render(sample.crossed())


def test_means_intervals_and_seeds_are_where_they_belong() -> None:
    table = sample.rich()
    axes = drawn(table).axes
    assert len(axes) == 3, "the metrics; costs stay in the table"
    for panel, column in zip(axes, table.columns, strict=False):
        lines = [(list(line.get_xdata()), list(line.get_ydata()), line) for line in panel.lines]
        for place, row in enumerate(table.rows):
            cell = words.cell_of(row, column)
            if cell.value is None:
                assert not any(y == [place] for _, y, _ in lines)
                continue
            means = [line for x, y, line in lines if x == [cell.value] and y == [place]]
            assert len(means) == 1
            assert means[0].get_marker() == figure._LOOKS[cell.verdict]["marker"]
            seeds = [x for x, y, _ in lines if y == [place + 0.22] * len(cell.values)]
            assert seeds == [list(cell.values)]
            spans = [x for x, y, _ in lines if y == [place, place]]
            assert spans == ([[cell.low, cell.high]] if cell.low is not None else [])
        low, high = panel.get_ylim()
        assert low > high, "the first arm stands on top"
    assert [label.get_text() for label in axes[0].get_yticklabels()] == [
        words.arm_name(row) for row in table.rows
    ]
    signs = [note.get_text() for note in axes[0].texts]
    assert signs == ["−", "−", "+"], "what is significant is said by a sign, not by colour alone"


def test_colours_differ_without_colour() -> None:
    def grey(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for one, other in combinations(figure._LOOKS.values(), 2):
        differs_in_shape = (one["marker"], one["fill"]) != (other["marker"], other["fill"])
        assert differs_in_shape, (one, other)
    assert abs(grey("#0072B2") - grey("#D55E00")) > 15


def test_nothing_of_matplotlib_is_left_behind() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    had_pyplot = "matplotlib.pyplot" in sys.modules
    figure.render(sample.empty())
    assert dict(matplotlib.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot


def test_the_text_forms_do_not_load_matplotlib() -> None:
    source = Path(figure.__file__).read_text(encoding="utf-8")
    assert not re.search(r"^(?:import|from) (?:matplotlib|numpy)", source, flags=re.M)


# ---------------------------------------------------------------- grids


def rows(*changes: tuple[str, ...]) -> Table:
    made = tuple(Row(f"arm{i}", one, i == 0, {}, "", ()) for i, one in enumerate(changes))
    return replace(sample.empty(), rows=made)


def test_a_grid_is_seen() -> None:
    found = figure.grid(sample.crossed())
    assert found is not None
    (across, down), columns, lines, cells = found
    assert (across, down, columns, lines) == ("data.horizon", "data.window", ["1", "4"], ["1", "4", "16"])
    assert cells["4", "16"].arm == "w16h4"
    assert len(drawn(sample.crossed()).axes) == 3, "arms, map, scale"


@pytest.mark.parametrize(
    "changes",
    [
        (("a=1", "b=1"), ("a=1", "b=2"), ("a=2", "b=1")),  # one combination is missing
        (("a=1", "b=1"), ("a=1", "b=2"), ("a=2", "b=1"), ("a=1", "b=1")),  # one is there twice
        (("a=1",), ("a=2",)),
        (("a=1", "b=1", "c=1"), ("a=1", "b=2", "c=1"), ("a=2", "b=1", "c=1"), ("a=2", "b=2", "c=2")),
        (("a=1", "b=1"), ("a=1", "b=2"), ("a=2", "b=1"), ("a=2", "b=2", "c=2")),
        (("a=1", "b=1"), ("a=1", "b=2"), (), ("a=2", "b=2")),
    ],
    ids=["hole", "twice", "one key", "three keys", "one with more", "one with nothing"],
)
def test_what_is_no_grid(changes: tuple[tuple[str, ...], ...]) -> None:
    assert figure.grid(rows(*changes)) is None


def test_a_constant_key_does_not_hide_a_grid() -> None:
    found = figure.grid(rows(*((f"a={a}", f"b={b}", "c=1") for a in "xy" for b in "12")))
    assert found is not None and found[0] == ("b", "a") and found[2] == ["x", "y"]


# ---------------------------------------------------------------- names


@pytest.mark.slow
def test_nasty_names_are_drawn_without_a_warning() -> None:
    files = figure.render(sample.named(*sample.NASTY))
    ElementTree.fromstring(files["figure.svg"])


def test_letters_without_a_font_are_romanised_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "_HANGUL_FONTS", ())
    letters = figure.Letters(["한국어_팔", "text"])
    assert letters.write("한국어_팔") == "han-gug-eo_pal" and letters.romanised
    plain = figure.Letters(["한국", "text"])
    assert plain.write("text") == "text" and not plain.romanised
    named = replace(sample.empty(), rows=tuple(replace(row, arm="한국") for row in sample.empty().rows))
    assert "romanised" in drawn(named)._supxlabel.get_text()
    assert "romanised" not in drawn(sample.empty())._supxlabel.get_text()


def test_a_font_that_has_them_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    # The mathematical alphabet: letters that the usual font lacks and another font of matplotlib's own has.
    from matplotlib import font_manager

    letter = "\U0001d49c"  # script capital A
    usual = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    other = font_manager.get_font(font_manager.findfont("STIXNonUnicode"))
    code = next(code for code in other.get_charmap() if not usual.get_char_index(code))
    monkeypatch.setattr(figure, "_HANGUL_FONTS", ("no such font", "STIXNonUnicode"))
    letters = figure.Letters([chr(code), letter])
    assert letters.families == ["DejaVu Sans", "STIXNonUnicode"] and letters.write(chr(code)) == chr(code)


def test_romanised() -> None:
    assert romanised("한글") == "han-geul" and romanised("文") == "U+6587" and romanised("\x00") == "U+0000"
