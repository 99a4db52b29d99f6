"""Owns table.csv: the table as one figure per line, for a spreadsheet, R or pandas.

In: a `Table`. Out: text. One line per arm × column × seed, and one per arm × column with the mean (its `seed` and
`run` are empty, its `n` counts the seeds).
A run that has kept no seed has `unknown`. Figures have all their digits: read back, they are the same numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from src.comparison.render import words
from src.comparison.table import Table

HEAD = (
    "arm", "column", "unit", "seed", "value", "low", "high", "n", "basis", "difference", "p", "verdict", "run",
)  # fmt: skip


def render(table: Table) -> str:
    """The whole file; RFC 4180 with line feeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows(_lines(table))
    return out.getvalue()


def _lines(table: Table) -> Iterator[tuple[object, ...]]:
    for row in table.rows:
        for column in table.columns:
            cell, unit = words.cell_of(row, column), words.unit(column)
            start = (row.arm, column.key, unit)
            # csv writes None as an empty field and a float with repr, i.e. exactly.
            yield (*start, None, cell.value, cell.low, cell.high, len(cell.seeds), cell.basis, cell.difference, cell.p,
                   cell.verdict, None)  # fmt: skip
            for seed, value, run in zip(cell.seeds, cell.values, cell.runs, strict=True):
                yield (
                    *start,
                    seed if seed >= 0 else "unknown",
                    value,
                    None,
                    None,
                    1,
                    None,
                    None,
                    None,
                    None,
                    run,
                )
