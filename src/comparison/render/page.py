"""Owns index.html: the comparison on one page, from the question to the runs behind every figure.

In: a `Table` and its drawing. Out: one HTML file in the house's look, without scripts and without network; only its
links to the runs' reports and to the other forms of the table need the files beside it.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from src.comparison.render import words
from src.comparison.table import Cell, Column, Row, Table
from src.core import page
from src.core.page import section, tag, text

_STYLE = """
.plot img{min-width:40rem;background:#fff;padding:.4rem}
.runs{margin:.1rem 0;font-size:.8rem}.runs ul{margin:.2rem 0;padding:0;list-style:none;white-space:nowrap}
td b,th b{font-weight:700}ul{padding-left:1.2rem}li{overflow-wrap:anywhere;margin:.2rem 0}
.warning{border-left:.25rem solid var(--open);padding-left:.6rem}
pre{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.6rem;white-space:pre-wrap;
overflow-wrap:anywhere}
.kicker{color:var(--soft);margin:0}
thead .num{white-space:normal;min-width:5.5rem}.num .interval{display:block;white-space:nowrap}
"""
_KINDS = {
    "better": ("+ better", "good"),
    "worse": ("− worse", "bad"),
    "open": ("open", "soft"),
    "reference": ("reference", "soft"),
}
_FILES = {
    "table.md": "Markdown", "table.tex": "LaTeX", "table_document.tex": "LaTeX page", "table.csv": "CSV",
    "table.json": "JSON", "figure.pdf": "figure PDF", "figure.svg": "figure SVG", "figure.png": "figure PNG",
}  # fmt: skip


def render(table: Table, svg: bytes, folder: Path) -> str:
    """The whole page, which will lie in `folder`; `svg`: its figure."""
    files = " · ".join(f'<a href="{file}">{name}</a>' for file, name in _FILES.items())
    body = [
        _header(table),
        section(
            "Table",
            _grid(table, folder),
            f"<p class=small>{text(words.caption(table))}</p><p class=small>{text(words.legend(table))}</p>",
        ),
        section("Figure", _plot(table, svg)),
        section("Arms", _arms(table), _compared(table)),
        section("Runs", _runs(table, folder)),
        section("Make it again", _commands(table)),
        section("Files", f"<p>{files}</p>"),
    ]
    return page.document(f"{table.name}: {table.question}", body, _STYLE)


def _header(table: Table) -> str:
    told = words.verdict(table)
    warned = "".join(
        f"<p class=warning><b class=open>Warning:</b> {text(warning)}</p>" for warning in words.notes(table)
    )
    return (
        f"<header><p class=kicker>Comparison <b>{text(table.name)}</b></p><h1>{text(table.question)}</h1>"
        + f"<p>{text(told)}</p>" * bool(told)
        + f"{warned}</header>"
    )


def _grid(table: Table, folder: Path) -> str:
    answers = words.has_answers(table)
    head = ["arm", *(text(words.heading(column)) for column in table.columns), *["listens"] * answers]
    rows = [
        [
            text(row.arm) + (f" {tag('reference', 'soft')}" if row.reference else ""),
            *(_cell(table, row, column, folder) for column in table.columns),
            *[text(row.listens)] * answers,
        ]
        for row in table.rows
    ]
    written = {0, len(head) - 1} if answers else {0}
    return page.table(head, rows, written, f"Table of {table.name}")


def _cell(table: Table, row: Row, column: Column, folder: Path) -> str:
    shown, cell = words.shown(table, row, column), words.cell_of(row, column)
    if cell.value is None:
        return f'<span title="no run has this figure">{shown.value}</span>'
    parts = [f"<b>{shown.value}</b>" if shown.bold else shown.value]
    if shown.seeds:
        parts.append(f"<small class=open>{shown.seeds}</small>")
    if cell.verdict in ("better", "worse"):
        parts.append(tag(*_KINDS[cell.verdict]))
    if shown.interval:
        parts.append(f"<small class='soft interval'>{shown.interval}</small>")
    return " ".join(parts) + _behind(column, cell, folder)


def _behind(column: Column, cell: Cell, folder: Path) -> str:
    """The seeds of a cell with their values and runs, and how it stands to the reference."""
    items = [
        f"<li>{words.seed_name(seed)}: {words.number(value, column.digits)} {_link(run, folder, 'run')}</li>"
        for seed, value, run in zip(cell.seeds, cell.values, cell.runs, strict=True)
    ]
    if cell.difference is not None:
        items.append(f"<li>difference {words.number(cell.difference, column.digits)}</li>")
    if cell.p is not None:
        items.append(f"<li>p = {cell.p:.3g}, {_KINDS.get(cell.verdict, (cell.verdict, ''))[0]}</li>")
    count = len(cell.seeds)
    return f"<details class=runs><summary>{count} seed{'s' * (count != 1)}</summary><ul>{''.join(items)}</ul></details>"


def _plot(table: Table, svg: bytes) -> str:
    metrics = ", ".join(column.name for column in table.columns if column.kind == "metric")
    said = f"Mean of each arm with its 95 % interval and one point per seed: {metrics}"
    drawn = page.picture(svg, "image/svg+xml", said)
    return f'<div class="scroll plot" tabindex=0 role=region aria-label="figure">{drawn}</div>'


def _commands(table: Table) -> str:
    lines = "\n".join(map(text, table.commands))
    return f"<pre><code>{lines}</code></pre>" if lines else ""


def _arms(table: Table) -> str:
    rows = [
        [
            text(words.arm_name(row)),
            "<br>".join(f"<code>{text(change)}</code>" for change in row.overrides)
            or "nothing: the experiment as it is",
            ", ".join(map(str, row.missing)) or "none",
        ]
        for row in table.rows
    ]  # fmt: skip
    return page.table(["arm", "what it changes", "seeds without a finished run"], rows, {0, 1, 2}, "arms")


def _compared(table: Table) -> str:
    if not table.compared:
        return ""
    keys = ", ".join(f"<code>{text(key)}</code>" for key in table.compared)
    return f"<p>Compared keys, in which the arms differ: {keys}.</p>"


def _runs(table: Table, folder: Path) -> str:
    if not table.runs:
        return ""
    items = "".join(
        f"<li>{_link(run, folder, run)} <span class=small>{text(about)}</span></li>"
        for run, about in table.runs.items()
    )
    return f"<details><summary>{len(table.runs)} runs: arm, seed, commit, command</summary><ul>{items}</ul></details>"


def _link(run: str, folder: Path, words_: str) -> str:
    """A link to the run's report, else to its folder; the bare id where the run is not a folder here (W&B)."""
    place = Path(run)
    if not place.is_dir():
        return f"<code>{text(run)}</code>"
    target = place / "report.html" if (place / "report.html").is_file() else place
    address = quote(os.path.relpath(target.resolve(), folder.resolve()))
    return f'<a href="{text(address)}" title="{text(run)}">{text(words_)}</a>'
