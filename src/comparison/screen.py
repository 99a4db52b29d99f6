"""Owns what a comparison prints: its table, what is refused, warnings, and where the files are.

In: `Table`, `Difference`s. Out: text on stdout; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from src.comparison.differences import Difference
from src.comparison.table import Cell, Column, Table

MARKS = {"better": "▲", "worse": "▼", "open": "", "reference": "", "untested": ""}


def show(table: Table, files: Sequence[Path], console: Console | None = None) -> None:
    """Print the table, the sentences below it and the files."""
    out = console or _console()
    grid = RichTable(title=Text(table.question), title_justify="left", header_style="bold", expand=False)
    grid.add_column("arm")
    for column in table.columns:
        arrow = {"max": " ↑", "min": " ↓", None: ""}[column.better]
        grid.add_column(Text(column.name + arrow), justify="right")
    answers = any(row.listens for row in table.rows)
    if answers:
        grid.add_column("listens")
    for row in table.rows:
        name = row.arm + (" (reference)" if row.reference else "") + (f" [{row.note}]" if row.note else "")
        cells = [Text(cell_text(column, row.cells[column.key]),
                      style="bold" if row.cells[column.key].bold else "") for column in table.columns]  # fmt: skip
        grid.add_row(Text(name), *cells, *([Text(row.listens or "–")] if answers else []))
    out.print(grid)
    out.print(Text("▲ ▼ better, worse than the reference at 5 %; (n): seeds. " + table.caption))
    for sentence in table.warnings:
        out.print(Text(f"! {sentence}", style="yellow"))
    for path in files:
        out.print(Text(f"  {path}"))


def show_differences(found: Sequence[Difference], console: Console | None = None) -> None:
    """Print what keeps runs out of one table: key, values, whose."""
    out = console or _console()
    grid = RichTable(title=Text("These runs differ in more than what is compared"), title_justify="left")
    for heading in ("what", "rule", "value", "runs"):
        grid.add_column(heading, overflow="fold")
    for one in found:
        for index, (value, runs) in enumerate(one.values):
            head = (one.key, one.rule) if index == 0 else ("", "")
            grid.add_row(*(Text(text) for text in (*head, value, "; ".join(runs))))
        grid.add_section()
    out.print(grid)


def cell_text(column: Column, cell: Cell) -> str:
    """`▲ 93.0 ± 2.1 (3)`; the two distances where the interval is cut; a dash where nothing was measured."""
    if cell.value is None:
        return "–"
    digits = column.digits
    text = f"{cell.value:.{digits}f}"
    if cell.low is not None and cell.high is not None:
        up, down = cell.high - cell.value, cell.value - cell.low
        even = f"{up:.{digits}f}" == f"{down:.{digits}f}"
        text += f" ± {up:.{digits}f}" if even else f" +{up:.{digits}f} −{down:.{digits}f}"
    count = f" ({len(cell.seeds)})" if column.kind == "metric" else ""
    mark = MARKS[cell.verdict]
    return f"{mark} {text}{count}".strip()


def _console() -> Console:
    """As wide as the terminal; 180 where the output goes into a file, so that cells do not break."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=180)
