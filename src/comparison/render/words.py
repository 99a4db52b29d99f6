"""Owns the words and figures that every printed form of a table shares, before any form escapes them.

In: a `Table`. Out: plain strings: a cell's figure, its interval, its sign, the sentence on what the signs mean, the
verdict on the deciding column, and which runs stand behind which cells. Nothing is computed, only written.

One form of uncertainty for all cells: `93.0 [90.1, 95.2]`. Intervals of shares are cut at 0 and 100 %, so `±` would
claim a symmetry that is not there, and a dash between two ends could be read as a minus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from src.comparison.table import Cell, Column, Row, Table

MISSING = "–"
"""What stands where no run has the figure."""
SIGNS = {"better": "+", "worse": "−"}
"""Verdict → the sign behind the figure; the other verdicts have none."""
EMPTY = Cell(None, None, None, (), (), ())


@dataclass(frozen=True)
class Shown:
    """One cell in words, not yet escaped."""

    value: str
    interval: str
    """`[90.1, 95.2]`, empty where unknown."""
    sign: str
    """`+`, `−` or empty."""
    seeds: str
    """`n=1` where a single seed stands behind a metric, or fewer than behind other cells; else empty."""
    bold: bool


def number(value: float, digits: int) -> str:
    """`value` with `digits` decimals; what rounds to nothing has no minus; U+2212 as minus."""
    written = f"{value:.{digits}f}"
    if float(written) == 0:
        written = written.lstrip("-")
    return written.replace("-", "−")


def cell_of(row: Row, column: Column) -> Cell:
    """The cell; one without a value where the row has none."""
    return row.cells.get(column.key, EMPTY)


def shown(table: Table, row: Row, column: Column) -> Shown:
    """The cell of `row` and `column` in words."""
    cell = cell_of(row, column)
    if cell.value is None:
        return Shown(MISSING, "", "", "", False)
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{number(cell.low, column.digits)}, {number(cell.high, column.digits)}]"
    count = len(cell.seeds)
    few = column.kind == "metric" and (count == 1 or count < most_seeds(table))
    return Shown(
        number(cell.value, column.digits),
        interval,
        SIGNS.get(cell.verdict, ""),
        f"n={count}" if few else "",
        cell.bold,
    )


def most_seeds(table: Table) -> int:
    """The largest number of seeds behind any cell."""
    return max((len(cell.seeds) for row in table.rows for cell in row.cells.values()), default=0)


def heading(column: Column) -> str:
    """The column's name with an arrow to where it is good."""
    return f"{column.name} {arrow(column)}".strip()


def arrow(column: Column) -> str:
    """Where the column is good: `↑`, `↓`, or nothing."""
    return {"max": "↑", "min": "↓", None: ""}[column.better]


def unit(column: Column) -> str:
    """What stands in the parentheses that end the heading: `success (%)` → `%`; empty where there are none."""
    found = re.search(r"\(([^()]*)\)\s*$", column.name)
    return found.group(1) if found else ""


def arm_name(row: Row) -> str:
    """The arm, the reference marked."""
    return f"{row.arm} (reference)" if row.reference else row.arm


def notes(table: Table) -> list[str]:
    """What marks single arms, and what warns of the whole table: one sentence each."""
    return [*table.warnings, *(f"{row.arm}: {row.note}" for row in table.rows if row.note)]


def seed_name(seed: int) -> str:
    """`seed 3`; a negative one stands for a run that has kept none."""
    return f"seed {seed}" if seed >= 0 else "seed unknown"


def has_answers(table: Table) -> bool:
    """Does any arm have an answer to `listens`?"""
    return any(row.listens for row in table.rows)


def legend(table: Table) -> str:
    """What brackets, arrows and signs in this table mean; only of those that occur."""
    cells = [shown(table, row, column) for row in table.rows for column in table.columns]
    verdicts = {cell_of(row, column).verdict for row in table.rows for column in table.columns}
    parts = []
    bases = {cell_of(row, column).basis for row in table.rows for column in table.columns}
    if any(cell.interval for cell in cells):
        over = "over the run's own episodes" if "run" in bases else "of the mean over seeds"
        if {"run", "seeds"} <= bases:
            over = "of the mean over seeds; of a single seed (n=1), over the run's own episodes"
        parts.append(f"Brackets: 95 % interval {over}.")
    if any(column.better for column in table.columns):
        parts.append("Arrows: where better lies.")
    if verdicts & set(SIGNS):
        parts.append("+ / −: significantly better / worse than the reference; no sign: not shown to differ.")
    if any(cell.seeds for cell in cells):
        parts.append("n: seeds, where there are fewer.")
    if any(cell.value == MISSING for cell in cells):
        parts.append("–: no run has this figure.")
    return " ".join(parts)


def verdict(table: Table) -> str:
    """How the arms stand to the reference in the first column, one sentence per outcome; empty without a column."""
    reference = next((row.arm for row in table.rows if row.reference), None)
    if not table.columns or reference is None:
        return ""
    column = table.columns[0]
    words = {
        "better": f"significantly better than {reference}",
        "worse": f"significantly worse than {reference}",
        "open": f"not shown to differ from {reference}",
        "untested": "not tested",
    }
    parts = []
    for outcome, phrase in words.items():
        arms = [
            row.arm for row in table.rows if cell_of(row, column).verdict == outcome and not row.reference
        ]
        if arms:
            parts.append(f"{phrase}: {', '.join(arms)}")
    return f"In {column.name}, " + "; ".join(parts) + "." if parts else ""


def caption(table: Table) -> str:
    """The caption without the question, which every form shows before it."""
    return table.caption.strip().removeprefix(table.question.strip()).strip()


def trace(table: Table) -> Iterator[tuple[str, str, list[tuple[int, str]]]]:
    """(arm, columns, [(seed, run id)]): the runs behind every cell; columns with the same runs stand together."""
    for row in table.rows:
        groups: dict[tuple[tuple[int, str], ...], list[str]] = {}
        for column in table.columns:
            cell = cell_of(row, column)
            groups.setdefault(tuple(zip(cell.seeds, cell.runs, strict=True)), []).append(column.name)
        for runs, names in groups.items():
            yield row.arm, "all columns" if len(groups) == 1 else ", ".join(names), list(runs)


def one_line(text: str) -> str:
    """`text` without line breaks and other breaking space."""
    return " ".join(text.split())
