"""Owns figure.{pdf,svg,png}: every arm's mean with its interval, and one point per seed.

In: a `Table`. Out: the bytes of the three files, the same bytes for the same table, fonts and matplotlib. The deciding
column is the wide panel on the left, the other metrics stand beside it, arms in the table's order. Where the arms are
every combination of two settings, a map of the deciding column lies below. Costs are left to the table.

What an arm is to the reference is said by shape and by a sign; colour only repeats it, in two hues of the palette by
Okabe and Ito (2008, "Color Universal Design"), whose greys differ too.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from src.comparison.render import words
from src.comparison.render.letters import romanised
from src.comparison.table import Column, Row, Table

_LOOKS = {
    "reference": {"marker": "s", "color": "#000000", "fill": True},
    "better": {"marker": "o", "color": "#0072B2", "fill": True},
    "worse": {"marker": "X", "color": "#D55E00", "fill": True},
    "open": {"marker": "o", "color": "#555555", "fill": False},
    "untested": {"marker": "D", "color": "#555555", "fill": False},
}
_SETTINGS: dict[str, Any] = {
    "text.parse_math": False,  # names are text, `$` included
    "text.usetex": False,
    "pdf.fonttype": 42,  # TrueType in the file: text stays text, and publishers accept it (Type 3 they refuse)
    "svg.fonttype": "path",
    "svg.hashsalt": "comparison",  # ids in the file do not depend on the day
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}
_HANGUL_FONTS = (
    "NanumGothic", "Noto Sans KR", "Noto Sans CJK KR", "Noto Sans CJK JP", "Malgun Gothic", "Apple SD Gothic Neo",
    "AppleGothic", "UnDotum", "Baekmuk Gulim",
)  # fmt: skip
_WIDE, _SMALL, _ROW = 3.4, 1.7, 0.32  # inches: deciding panel, another panel, one arm


class Letters:
    """Which letters the installed fonts have: names are drawn with them, or romanised, never as empty boxes."""

    def __init__(self, texts: Iterable[str]) -> None:
        from matplotlib import font_manager

        regular = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
        wanted = {sign for text in texts for sign in text if not regular.get_char_index(ord(sign))}
        self.families, self.romanised = ["DejaVu Sans"], False
        self._missing = wanted
        if not wanted:
            return
        installed = {font.name for font in font_manager.fontManager.ttflist}
        for name in _HANGUL_FONTS:
            if name in installed:
                # The regular face, as it is drawn with; bold or italic ones may lack letters.
                font = font_manager.get_font(font_manager.findfont(name))
                found = {sign for sign in wanted if font.get_char_index(ord(sign))}
                if found:
                    self.families.append(name)
                    self._missing = wanted - found
                    return

    def write(self, text: str) -> str:
        """`text` as it can be drawn, on one line."""
        pieces = groupby(words.one_line(text), lambda sign: sign in self._missing)
        out = "".join(romanised("".join(signs)) if missing else "".join(signs) for missing, signs in pieces)
        self.romanised |= out != words.one_line(text)
        return out

    def wrapped(self, text: str, width: int) -> str:
        """The same in lines of `width` signs."""
        return "\n".join(textwrap.wrap(self.write(text), width)) or " "


def render(table: Table) -> dict[str, bytes]:
    """File name → content."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    texts = [row.arm for row in table.rows] + [column.name for column in table.columns]
    letters = Letters(map(words.one_line, [*texts, *(text for row in table.rows for text in row.overrides)]))
    # The reader's own matplotlibrc must not change a paper's figure.
    settings: list[Any] = ["default", {**_SETTINGS, "font.family": letters.families}]
    with style.context(settings):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)  # no pyplot: nothing is kept open behind the caller's back
        _draw(figure, table, letters)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # placed once, not again for each file
        files = {}
        options: dict[str, dict[str, Any]] = {
            "pdf": {"metadata": {"CreationDate": None}},
            "svg": {"metadata": {"Date": None}},
            "png": {"dpi": 200},
        }
        for form, more in options.items():
            out = io.BytesIO()
            figure.savefig(out, format=form, **more)
            files[f"figure.{form}"] = out.getvalue()
    return files


def grid(table: Table) -> tuple[tuple[str, str], list[str], list[str], dict[tuple[str, str], Row]] | None:
    """((key across, key down), values across, values down, (across, down) → arm) where the arms are every combination
    of two settings, each once; None where they are not. Values ascend where they are numbers."""
    settings = [
        {key.lstrip("+"): value for key, _, value in (one.partition("=") for one in row.overrides)}
        for row in table.rows
    ]
    keys = [
        key
        for key in (settings[0] if settings else {})
        if all(key in one for one in settings) and len({one[key] for one in settings}) > 1
    ]
    free = {key for one in settings for key in one} - {
        key for key in (settings[0] if settings else {}) if len({one.get(key) for one in settings}) == 1
    }
    if len(keys) != 2 or free != set(keys):
        return None
    down, across = keys
    cells = {(one[across], one[down]): row for one, row in zip(settings, table.rows, strict=True)}
    columns, lines = (_ordered([one[key] for one in settings]) for key in (across, down))
    if len(cells) != len(table.rows) or len(cells) != len(columns) * len(lines):
        return None
    return (across, down), columns, lines, cells


def _ordered(values: Sequence[str]) -> list[str]:
    found = list(dict.fromkeys(values))
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?([eE]-?\d+)?", value) for value in found)
    return sorted(found, key=float) if numbers else found


def _draw(figure: Any, table: Table, letters: Letters) -> None:
    metrics = [column for column in table.columns if column.kind == "metric"] or list(table.columns)
    names = [letters.wrapped(words.arm_name(row), 26) for row in table.rows]
    lines = sum(1 + 0.5 * name.count("\n") for name in names)
    mapped = grid(table) if metrics else None
    height = 1.3 + _ROW * lines
    below = 1.1 + 0.45 * len(mapped[2]) if mapped else 0.0
    longest = max((len(line) for name in names for line in name.split("\n")), default=0)
    wide = _WIDE + _SMALL * (max(len(metrics), 1) - 1)
    figure.set_size_inches(wide + 0.08 * longest, height + below)
    rows = figure.add_gridspec(2 if mapped else 1, 1, height_ratios=[height, below] if mapped else [height])
    panels = rows[0].subgridspec(
        1, max(len(metrics), 1), width_ratios=[_WIDE, *[_SMALL] * (max(len(metrics), 1) - 1)]
    )
    first = None
    for i, column in enumerate(metrics):
        axes = figure.add_subplot(panels[i], sharey=first)
        _panel(axes, table, column, letters, names if first is None else None)
        first = first or axes
    if first is None:
        figure.text(0.5, 0.5, "no columns", ha="center")
        return
    if mapped:
        _map(figure, figure.add_subplot(rows[1]), table, metrics[0], mapped, letters)
    note = "large: mean, line: 95 % interval, small: seeds"
    used = {words.cell_of(row, column).verdict for row in table.rows for column in metrics}
    if used & set(words.SIGNS):
        note += "\n+ / −: significantly better / worse than the reference"
    hollow = {"open": "hollow circle: not shown to differ", "untested": "hollow diamond: not tested"}
    if used & set(hollow):
        note += "\n" + "; ".join(phrase for outcome, phrase in hollow.items() if outcome in used)
    if letters.romanised:
        note += "\nromanised: no installed font has these letters (NanumGothic has Hangul)"
    figure.supxlabel(note, fontsize=7, color="#444444")


def _panel(axes: Any, table: Table, column: Column, letters: Letters, names: Sequence[str] | None) -> None:
    places = range(len(table.rows))
    for place, row in zip(places, table.rows, strict=True):
        cell = words.cell_of(row, column)
        if cell.value is None:
            axes.annotate("no run", (0.5, place), xycoords=("axes fraction", "data"), ha="center", va="center",
                          fontsize=7, color="#555555")  # fmt: skip
            continue
        look = _LOOKS[cell.verdict]
        colour = look["color"]
        if row.reference:
            axes.axvline(cell.value, color="#000000", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        if cell.low is not None and cell.high is not None:
            axes.plot([cell.low, cell.high], [place, place], color=colour, linewidth=1.8, zorder=2,
                      solid_capstyle="butt")  # fmt: skip
        # Seeds lie a little below the mean, so that neither hides the other.
        axes.plot(cell.values, [place + 0.22] * len(cell.values), linestyle="none", marker="o", markersize=2.6,
                  color=colour, markeredgewidth=0, alpha=0.75, zorder=3)  # fmt: skip
        axes.plot([cell.value], [place], linestyle="none", marker=look["marker"], markersize=6.5, color=colour,
                  markerfacecolor=colour if look["fill"] else "#ffffff", markeredgewidth=1.2, zorder=4)  # fmt: skip
        sign = words.SIGNS.get(cell.verdict)
        if sign:
            axes.annotate(sign, (1.0, place), xycoords=("axes fraction", "data"), xytext=(5, 0),
                          textcoords="offset points", ha="center", va="center", fontsize=12,
                          color=colour, annotation_clip=False)  # fmt: skip
    axes.set_title(letters.wrapped(words.heading(column), 34 if names else 16), fontsize=9 if names else 8)
    axes.set_ylim(len(table.rows) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0, labelleft=names is not None)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=6 if names else 3)
    if names is not None:
        axes.set_yticks(list(places), names)
    axes.margins(x=0.08)


def _map(figure: Any, axes: Any, table: Table, column: Column, mapped: Any, letters: Letters) -> None:
    import numpy as np

    (across, down), columns, lines, cells = mapped
    values = np.array(
        [
            [np.nan if (v := words.cell_of(cells[x, y], column).value) is None else v for x in columns]
            for y in lines
        ]
    )
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    for j, y in enumerate(lines):
        for i, x in enumerate(columns):
            shown = words.shown(table, cells[x, y], column)
            label = " ".join(filter(None, (shown.value, shown.sign)))
            share = image.norm(values[j, i]) if np.isfinite(values[j, i]) else 1.0
            weight = "bold" if shown.bold else "normal"
            axes.text(i, j, label, ha="center", va="center", fontsize=8, fontweight=weight,
                      color="#ffffff" if share < 0.5 else "#000000")  # fmt: skip
    axes.set_xticks(range(len(columns)), [letters.wrapped(value, 16) for value in columns])
    axes.set_yticks(range(len(lines)), [letters.wrapped(value, 20) for value in lines])
    axes.set_xlabel(letters.write(across))
    axes.set_ylabel(letters.wrapped(down, 22))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if np.isfinite(values).any():
        figure.colorbar(image, ax=axes, label=letters.write(words.heading(column)), fraction=0.05)
