"""Owns table.md: the table as GitHub's Markdown, readable in a README, an issue, or a W&B report.

In: a `Table`. Out: text. Whatever the names hold, they are shown as they are and are never read as markup.
"""

from __future__ import annotations

import re

from src.comparison.render import words
from src.comparison.table import Column, Row, Table


def render(table: Table) -> str:
    """The whole file."""
    parts = [f"## {escape(table.name)}", escape(table.question)]
    told = words.verdict(table)
    if told:
        parts.append(escape(told))
    parts += [_grid(table), escape(words.caption(table)), escape(words.legend(table))]
    notes = words.notes(table)
    if notes:
        parts.append("\n".join(f"- **Warning:** {escape(note)}" for note in notes))
    parts.append("### Arms\n\n" + "\n".join(_arm(row) for row in table.rows))
    if table.compared:
        parts.append("Compared: " + ", ".join(code(key) for key in table.compared))
    parts.append("### Runs behind the cells\n\n" + "\n".join(_trace(table)))
    if table.runs:
        listed = "\n".join(f"- {code(run)}: {escape(about)}" for run, about in table.runs.items())
        parts.append(f"<details><summary>{len(table.runs)} runs in full</summary>\n\n{listed}\n\n</details>")
    if table.commands:
        parts.append("### Make it again\n\n" + block("\n".join(table.commands)))
    return "\n\n".join(filter(None, parts)) + "\n"


def escape(text: str) -> str:
    """`text` as Markdown that shows exactly it, on one line, also inside a table.

    CommonMark: a backslash before any ASCII punctuation makes it literal (§2.4). An underscore inside a word is literal
    anyway (§6.2) and stays readable; `|` needs it for GitHub's tables.
    """
    text = words.one_line(text)
    text = re.sub(r"[\\`*\[\]<>|~&#!$@]|_(?!(?<=[^\W_]_)[^\W_])", r"\\\g<0>", text)
    return re.sub(r"^([-+=]|\d+[.)])", lambda found: found[0][:-1] + "\\" + found[0][-1], text)


def code(text: str) -> str:
    """`text` as a code span: a fence longer than any run of backticks in it (CommonMark §6.1)."""
    text = words.one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def block(text: str) -> str:
    """`text` as a block of code."""
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _grid(table: Table) -> str:
    answers = words.has_answers(table)
    head = ["arm", *(escape(words.heading(column)) for column in table.columns)]
    lines = [head + ["listens"] * answers, ["---"] + ["---:"] * len(table.columns) + ["---"] * answers]
    for row in table.rows:
        cells = [_cell(table, row, column) for column in table.columns]
        lines.append([escape(words.arm_name(row)), *cells] + [escape(row.listens)] * answers)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(table: Table, row: Row, column: Column) -> str:
    shown = words.shown(table, row, column)
    value = f"**{shown.value}**" if shown.bold else shown.value
    interval = shown.interval.replace("[", "\\[").replace("]", "\\]")
    return " ".join(filter(None, (value, interval, f"({shown.seeds})" * bool(shown.seeds), shown.sign)))


def _arm(row: Row) -> str:
    changes = ", ".join(code(change) for change in row.overrides) or "nothing: the experiment as it is"
    seeds = ", ".join(map(str, row.missing))
    missing = f"; seeds without a finished run: {seeds}" if seeds else ""
    return f"- **{escape(words.arm_name(row))}** changes {changes}{missing}"


def _trace(table: Table) -> list[str]:
    lines = []
    for arm, columns, runs in words.trace(table):
        listed = ", ".join(f"{words.seed_name(seed)} {code(run)}" for seed, run in runs) or "no run"
        lines.append(f"- {escape(arm)}, {escape(columns)}: {listed}")
    return lines
