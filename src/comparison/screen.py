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
    out.print(Text(table.question, style="italic"))
    for columns, last in _blocks(table, out.width):
        out.print(_grid(table, columns, last))
    out.print(Text("▲ ▼ better, worse than the reference at 5 %; (n): seeds. " + table.caption))
    for sentence in table.warnings:
        out.print(Text(f"! {sentence}", style="yellow"))
    for path in files:
        out.print(Text(f"  {path}"))


def _blocks(table: Table, width: int) -> list[tuple[list[Column], bool]]:
    """The columns of each grid, and whether it ends with the answers: one grid where `width` has room for all columns,
    else figures and costs apart, and as many grids as it takes; a name or a figure is never cut."""
    room = width - max(map(len, _names(table)), default=0) - 4
    answers = max((len(row.listens) for row in table.rows), default=0)
    answers = max(answers, len("listens")) + 3 if answers else 0
    if sum(_width(table, column) for column in table.columns) + answers <= room:
        return [(list(table.columns), True)]
    blocks: list[list[Column]] = []
    for kind in ("metric", "cost"):
        left = -1
        for column in (one for one in table.columns if one.kind == kind):
            if left < _width(table, column):
                blocks.append([])
                left = room
            blocks[-1].append(column)
            left -= _width(table, column)
    if answers and (not blocks or sum(_width(table, one) for one in blocks[-1]) + answers > room):
        blocks.append([])
    return [(block, index == len(blocks) - 1) for index, block in enumerate(blocks)]


def _width(table: Table, column: Column) -> int:
    """Signs that a column needs: its longest cell, or the longest word of its heading; and the frame."""
    texts = [*(cell_text(column, row.cells[column.key]) for row in table.rows), *_heading(column).split()]
    return max(map(len, texts)) + 3


def _heading(column: Column) -> str:
    arrow = {"max": " ↑", "min": " ↓", None: ""}[column.better]
    return column.name + arrow.replace(" ", "\u00a0")


def _names(table: Table) -> list[str]:
    return [
        row.arm + (" (reference)" if row.reference else "") + (f" [{row.note}]" if row.note else "")
        for row in table.rows
    ]


def _grid(table: Table, columns: Sequence[Column], last: bool) -> RichTable:
    grid = RichTable(header_style="bold", expand=False)
    grid.add_column("arm", no_wrap=True)
    for column in columns:
        grid.add_column(Text(_heading(column)), justify="right", min_width=_width(table, column) - 3)
    answers = last and any(row.listens for row in table.rows)
    if answers:
        grid.add_column("listens", no_wrap=True)
    for name, row in zip(_names(table), table.rows, strict=True):
        cells = [
            Text(cell_text(column, row.cells[column.key]), style="bold" if row.cells[column.key].bold else "",
                 no_wrap=True) for column in columns
        ]  # fmt: skip
        grid.add_row(Text(name), *cells, *([Text(row.listens or "–")] if answers else []))
    return grid


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
