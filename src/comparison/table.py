"""Owns the shape of a finished comparison table: columns, rows, cells, and what stands below them.

Written by the statistics, read by every form it is printed in (Markdown, LaTeX, CSV, figure, page, W&B): a number is
computed once and only formatted afterwards. Plain frozen values; nothing here computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Column:
    """One figure of the table."""

    key: str
    """Its name in run.json: `metrics/…` name, or the name of a cost."""
    name: str
    """Heading, short: `success full1 (%)`."""
    better: Direction | None
    """Which way is good; None: nothing is tested (a cost)."""
    scale: float
    """Factor from the record's unit to the heading's (100 for %)."""
    digits: int
    """Decimals shown."""
    kind: Literal["metric", "cost"]


@dataclass(frozen=True)
class Cell:
    """Mean over seeds with its 95 % interval, in the column's unit (scaled); None where no run has the figure."""

    value: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    """Seeds averaged, sorted."""
    values: tuple[float, ...]
    """One value per seed, same order."""
    runs: tuple[str, ...]
    """Ids of the runs behind it, same order."""
    difference: float | None = None
    """Mean of the paired differences to the reference arm."""
    p: float | None = None
    """Of the paired test against the reference, after Holm's correction over the arms of this column; None for the
    reference, for costs and where too few pairs are there."""
    verdict: Literal["better", "worse", "open", "reference", "untested"] = "untested"
    """Against the reference: significant either way, or open."""
    basis: Literal["seeds", "run"] | None = None
    """What the interval is over: seeds; or, for a single seed, the run's own episodes; None: there is no interval."""
    bold: bool = False
    """Only for what is significant: better than the reference and not significantly below the best arm; or the
    reference itself where every other arm is significantly worse."""


@dataclass(frozen=True)
class Row:
    """One arm."""

    arm: str
    overrides: tuple[str, ...]
    reference: bool
    cells: Mapping[str, Cell]
    """Column key → cell."""
    listens: str
    """The answers of the runs' reports, e.g. `3 of 3`, `2 of 3, 1 open`; empty where none asked."""
    missing: tuple[int, ...]
    """Seeds of the definition without a finished run."""
    note: str = ""
    """What marks this arm among the others, e.g. `imported: config and code unknown`; else empty."""


@dataclass(frozen=True)
class Table:
    """A comparison, ready to be printed."""

    name: str
    question: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str
    """n, seeds, intervals, tests, what bold means, what was held fixed: the sentences below the table."""
    compared: tuple[str, ...]
    """Config leaves in which the arms differ."""
    warnings: tuple[str, ...]
    """What a reader must know: missing seeds, declared differences, several machines."""
    commands: tuple[str, ...]
    """Exact commands that make the runs and this table again, with the commit."""
    runs: Mapping[str, str]
    """Run id → `arm, seed, commit, command`, for the trace."""
