"""The table in a terminal: nothing is cut, whatever its width."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from src.comparison import screen
from tests.comparison import render_sample as sample


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_arm_no_figure_and_no_word_of_a_heading_is_cut(width: int) -> None:
    table = sample.rich()
    gap = table.rows[-1]
    cells = {**dict.fromkeys((sample.SWAPPED.key,), gap.cells[sample.STEP.key]), **gap.cells}
    table = replace(table, rows=(*table.rows[:-1], replace(gap, cells=cells, note="imported")))
    out = StringIO()
    screen.show(table, [], Console(file=out, width=width, highlight=False))
    grids = out.getvalue().split("▲ ▼ better")[0]
    assert "…" not in grids and max(map(len, grids.splitlines())) <= width
    blocks = grids.count("┏")
    for row in table.rows:
        name = row.arm + (" (reference)" if row.reference else "")
        assert grids.count(f"│ {name} ") == blocks
        for column in table.columns:
            assert screen.cell_text(column, row.cells[column.key]) in grids
    for column in table.columns:
        assert all(word in grids for word in column.name.split())
    assert (blocks == 1) == (width == 200)
    assert grids.count("listens") == 1
