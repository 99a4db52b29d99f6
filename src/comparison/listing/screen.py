"""Owns how the list of runs looks: a table as wide as the terminal, colours beside words, errors below.

In: chosen runs in order. Out: lines on stdout. On a narrow terminal columns are left out and then names shortened;
into a file or a pipe everything is printed in full, without colour.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from src.comparison.listing.command import Entry

COLOURS = {
    "finished": "green", "failed": "bold red", "interrupted": "yellow", "killed": "red", "running": "cyan",
    "pruned": "magenta", "imported": "blue",
}  # fmt: skip
_GAP = 2
_SHORTEST = 8
"""Cells that the name of a run keeps at least."""
_ROOM = 24
"""A column is left out before names get shorter than this."""
_LEAVES = ("listens/looks", "seed", "arm", "minutes", "age")
"""Columns that a narrow terminal goes without, in this order: arm and seed stand in the run's name."""


@dataclass(frozen=True)
class Column:
    """Cells of one column, top to bottom."""

    name: str
    cells: tuple[str, ...]
    right: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.name, *self.cells))


def table(
    entries: Sequence[Entry],
    broken: Sequence[Entry],
    total: int,
    metric: str | None,
    errors: bool,
    folders: Sequence[str],
) -> None:
    """Print the list; `total`: how many runs there are before the limit."""
    console = Console(highlight=False, soft_wrap=True)
    width = console.width if console.is_terminal else None
    if entries:
        columns, legend = columns_of(entries, metric, width is not None)
        for index, cells in enumerate(lay_out(columns, width)):
            line = Text("  ".join(cells).rstrip(), style="bold" if index == 0 else "")
            if index:  # the second column is the state
                start = len(cells[0]) + _GAP
                line.stylize(COLOURS.get(str(entries[index - 1]["state"]), ""), start, start + len(cells[1]))
            console.print(line)
        for line_ in legend:
            console.print(line_, style="dim", markup=False)
    count = f"{len(entries)} of {total} runs; limit=null shows all."
    if len(entries) == total:
        count = (
            f"{total} run{'s' * (total != 1)}." if total else f"No runs below {', '.join(folders)} that fit."
        )
    console.print(count, style="dim", markup=False)
    for missing in (folder for folder in folders if not os.path.isdir(folder)):
        console.print(f"{missing}: there is no such folder.", style="dim", markup=False)
    failed = [entry for entry in entries if entry["error"]]
    for entry in failed if errors else failed[:5]:
        said = str(entry["error"]).strip()
        text = said if errors else said.splitlines()[0]
        console.print(f"{entry.path}: {text}", style="red", markup=False)
    if not errors and len(failed) > 5:
        console.print(f"{len(failed) - 5} more have failed; errors=true shows why.", markup=False)
    for entry in broken:
        console.print(str(entry.problem), style="yellow", markup=False)


def columns_of(entries: Sequence[Entry], metric: str | None, short: bool) -> tuple[list[Column], list[str]]:
    """The columns, and the lines below that say which figure a letter stands for where runs have different ones."""
    names = [metric or entry.headline for entry in entries]
    different = list(dict.fromkeys(name for name in names if name))
    marks = {
        name: f" {chr(97 + i)}" if len(different) > 1 and i < 26 else "" for i, name in enumerate(different)
    }
    figures = []
    for entry, name in zip(entries, names, strict=True):
        value = entry.figures.get(name) if name else None
        figures.append("–" if value is None else f"{number(value)}{marks[str(name)]}")
    heading = "metric" if len(different) != 1 else brief(different[0])
    legend = [f"{marks[name].strip()}  {name}" for name in different] if len(different) > 1 else []
    if len(different) == 1 and heading != different[0]:
        legend = [f"{heading}: {different[0]}"]

    def column(name: str, cells: Sequence[str], right: bool = False) -> Column:
        return Column(name, tuple(cells), right)

    return [
        column("run", [shorter(entry.path) if short else entry.path for entry in entries]),
        column("state", [str(entry["state"]) for entry in entries]),
        column("arm", [_or_dash(entry["arm"]) for entry in entries]),
        column("seed", [_or_dash(entry["seed"]) for entry in entries], right=True),
        column(heading, figures, right=True),
        column("minutes", ["–" if e.minutes is None else f"{e.minutes:.1f}" for e in entries], right=True),
        column("listens/looks", [answers(entry) for entry in entries]),
        column("age", [age(entry.started) for entry in entries], right=True),
    ], legend


def lay_out(columns: Sequence[Column], width: int | None) -> list[list[str]]:
    """Heading and rows as padded cells, no line wider than `width` cells (None: as wide as it gets)."""
    kept = [column for column in columns if column.name in ("run", "state") or set(column.cells) - {"–"}]
    room = kept[0].width
    if width is not None:

        def rest() -> int:
            return width - sum(column.width + _GAP for column in kept[1:])

        for name in _LEAVES:
            if rest() < min(kept[0].width, _ROOM):
                kept = [column for column in kept if column.name != name]
        room = min(kept[0].width, max(rest(), _SHORTEST))
    rows = []
    for index in range(len(columns[0].cells) + 1):
        cells = []
        for column in kept:
            text = (column.name, *column.cells)[index]
            size = room if column is kept[0] else column.width
            text = middle(text, size)
            padding = " " * (size - cell_len(text))
            cells.append(padding + text if column.right else text + padding)
        rows.append(cells)
    return rows


def middle(text: str, size: int) -> str:
    """`text` in at most `size` cells: the middle goes, for a path's beginning and end say most."""
    if cell_len(text) <= size:
        return text
    head = (size - 1) // 3
    tail, rest = "", size - 1 - head
    for sign in reversed(text):
        if cell_len(sign + tail) > rest:
            break
        tail = sign + tail
    return f"{set_cell_size(text, head)}…{tail}"


def shorter(path: str) -> str:
    """Without the folder that all runs lie in; show= and diff= take this form too."""
    top, _, below = path.partition("/")
    return below if top in ("outputs", "multirun") and below else path


def brief(name: str) -> str:
    """A heading: `closed_loop/full1/layout/policy/success` → `success`."""
    return name if len(name) <= 16 else name.rsplit("/", 1)[-1]


def number(value: float) -> str:
    """Three to four digits; counts in full."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def answers(entry: Entry) -> str:
    """`yes/open`, or a dash where the report did not ask."""
    verdict = entry.section("verdict")
    found = [verdict.get("listens"), verdict.get("looks")]
    return "–" if found == [None, None] else "/".join(_or_dash(word) for word in found)


def age(started: datetime | None, now: datetime | None = None) -> str:
    """Since its first start: 40 s, 12 min, 5 h, 3 d."""
    if started is None:
        return "–"
    seconds = max(((now or datetime.now(timezone.utc)) - started).total_seconds(), 0.0)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _or_dash(value: object) -> str:
    return "–" if value is None else str(value)
