"""Owns the last screen of a training or an evaluation: what the policy can do, for a reader who is new here.

In: a report (plain values, as in report.json) and its run folder. Out: at most 40 lines of 100 columns on a terminal:
verdict first, then baselines beside the policy, the probes, the latency, where the files lie, what to try. What does
not fit is named, and stands in report.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from src.evaluation.report import tables, words
from src.evaluation.report.advice import ideas
from src.evaluation.report.record import SPLIT_ROLES, VERDICTS, sections, too_few
from src.evaluation.report.words import number, value_of

WIDTH, LINES = 100, 40
COLOURS = {"good": "green", "bad": "red", "open": "yellow", "soft": "bright_black"}
_LEANER = ((99, 3), (6, 3), (5, 2), (4, 2), (3, 1), (2, 1), (1, 1))
"""Baselines and commands to show, until the screen fits."""
_COLUMNS = 3
"""Of the table of scores; recorded frames keep theirs, however many suites there are."""


def show(
    report: Mapping[str, Any], folder: Path, run: Path | None = None, console: Console | None = None
) -> None:
    """Print the end screen; `folder` holds the report, `run` is the run it belongs to (default: the same)."""
    (console or Console(width=WIDTH, soft_wrap=False)).print(render(report, folder, run))


def render(report: Mapping[str, Any], folder: Path, run: Path | None = None) -> RenderableType:
    """The end screen as one rich renderable."""
    for baselines, commands in _LEANER:
        parts = _parts(report, folder, run or folder, baselines, commands)
        out = Group(*parts)
        if _height(out) <= LINES:
            break
    return out


def _height(item: RenderableType) -> int:
    console = Console(width=WIDTH, file=StringIO(), soft_wrap=False)
    return len(console.render_lines(item))


def _parts(
    report: Mapping[str, Any], folder: Path, run: Path, baselines: int, commands: int
) -> Iterator[RenderableType]:
    yield _verdict(report)
    found = tables.scores(report)
    if found.rows:
        yield _scores(report, found, baselines)
    if report.get("probes"):
        yield _probes(report)
    for line in filter(None, [_latency(report), _others(report)]):
        yield Text(line)
    yield _files(report["files"], folder)
    yield _next(report, run, commands)


def _verdict(report: Mapping[str, Any]) -> RenderableType:
    verdict = report["verdict"]
    text = Text(verdict["success"] or "not driven in a simulator", style="bold")
    for key, name in VERDICTS.items():
        answer = verdict[key]["answer"]
        colour = COLOURS[words.sign(key, answer)[1]]
        text.append(f"\n{name}: ", style="bold")
        text.append(answer, style=f"bold {colour}")
        if verdict[key]["words"] != "not measured by this evaluation":
            text.append(f", {verdict[key]['words']}")
    if verdict["not_beaten"]:
        text.append(f"\nno better than: {', '.join(verdict['not_beaten'])}", style="bold red")
    few = too_few(verdict, report.get("baselines"))
    if few:
        text.append(f"\ntoo few to tell: {few}", style=f"bold {COLOURS['open']}")
    for part, why in report["failed"].items():
        text.append(f"\nfailed to measure {part}: ", style="bold red").append(why, style="red")
    return Panel(text, title="What this policy can do", title_align="left", width=WIDTH, box=box.ROUNDED)


def _scores(report: Mapping[str, Any], found: tables.Table, baselines: int) -> RenderableType:
    """Policy, expert and the strongest baselines: success per suite, error on recorded drives."""
    driven = [c for c, column in enumerate(found.columns) if column.title.startswith("success, ")]
    recorded = [c for c, column in enumerate(found.columns) if column.title == "recorded: error"]
    room_for = _COLUMNS - len(recorded)
    kept = [*driven[:room_for], *recorded]
    rows = [r for r, row in enumerate(found.rows) if row[0] in ("policy", "expert")]
    others = sorted(
        (r for r in range(len(found.rows)) if r not in rows),
        key=lambda r: (not any((r, c) in found.marked for c in kept), _rank(found, r, kept)),
    )
    heads, cells = [], []
    for c in kept:
        what, _, where = found.columns[c].title.partition(", ")
        n = next((f", {words.count(row[c])}" for row in found.rows if words.is_figure(row[c])), "")
        heads.append(f"{where or 'recorded frames'}\n{what.removeprefix('recorded: ')}{n}")
    for r in [*rows, *others[:baselines]]:
        row = found.rows[r]
        marks = [" *" if (r, c) in found.marked else " ?" if (r, c) in found.open else "" for c in kept]
        figures = [number(row[c], found.columns[c].percent) for c in kept]
        cells.append((row[0], [figure + mark for figure, mark in zip(figures, marks, strict=True)]))
    widths = [
        max(len(line) for line in [*head.split("\n"), *(figures[i] for _, figures in cells)])
        for i, head in enumerate(heads)
    ]
    table = Table(box=box.SIMPLE_HEAD, width=WIDTH, padding=(0, 1), show_edge=False)
    room = max(14, WIDTH - sum(widths) - 3 * len(widths) - 2)
    table.add_column("driver", no_wrap=True, overflow="ellipsis", width=room)
    for head, width in zip(heads, widths, strict=True):
        table.add_column(head, justify="right", no_wrap=True, min_width=width)
    for name, figures in cells:
        label = Text(name, style="bold" if name == "policy" else "")
        label.append(f"  {words.ABOUT.get(name, '')}", style="dim")
        table.add_row(label, *figures, style="bold" if name == "policy" else "")
    notes = ["in brackets: 95 % interval"]
    least = min((row[kept[0]]["n"] for row in found.rows if words.is_figure(row[kept[0]])), default=0)
    most = max((row[kept[0]]["n"] for row in found.rows if words.is_figure(row[kept[0]])), default=0)
    if report.get("closed_loop") and least < most:
        notes.append(f"others drove n={least}")
    if report.get("offline"):
        role = report["offline"].get("split_role") or SPLIT_ROLES.get(report["offline"]["split"], "")
        notes.append(f"recorded frames: {role}")
    if any(c in kept for _, c in found.marked):
        notes.append("* the policy is not better than this beyond the noise")
    if any(c in kept for _, c in found.open):
        notes.append("? too few to tell whether the policy is better than this")
    explained = words.count_explained(row[c] for c in kept for row in found.rows)
    notes += [explained] if explained else []
    hidden = [found.columns[c].title.removeprefix("success, ") for c in driven[room_for:]]
    if hidden:
        notes.append(f"{len(hidden)} more suite{'s' * (len(hidden) > 1)} in report.html: {', '.join(hidden)}")
    if others[baselines:]:
        notes.append(f"further, in report.html: {', '.join(found.rows[r][0] for r in others[baselines:])}")
    return Group(table, Padding(Text("; ".join(notes), style="dim"), (0, 2)))


def _rank(found: tables.Table, row: int, kept: list[int]) -> float:
    """Strong drivers first: by success where driven, else by error."""
    value = value_of(found.rows[row][kept[0]]) or 0.0
    return -value if found.columns[kept[0]].title.startswith("success") else value


def _probes(report: Mapping[str, Any]) -> RenderableType:
    """Side by side: changed words in the simulator, changed inputs on recorded frames."""
    driven = [
        (words.DRIVEN_SHORT[kind], number(figure))
        for kind, key, figure in tables.driven(report).rows
        if key in ("changed", "success") and kind in words.DRIVEN_SHORT
    ]
    recorded = [
        (words.RECORDED.get(row[0], words.spell(row[0])), number(row[1]))
        for row in tables.recorded(report).rows
    ]
    table = Table(box=None, width=WIDTH, padding=(0, 1), show_edge=False, header_style="bold")
    if driven:
        table.add_column(f"words changed, {report['probes']['driven']['suite']}")
        table.add_column("share", justify="right", no_wrap=True)
    if recorded:
        table.add_column("changed input, recorded frames")
        table.add_column("action moves", justify="right", no_wrap=True)
    for left, right in zip_longest(driven, recorded, fillvalue=("", "")):
        table.add_row(*(left if driven else ()), *(right if recorded else ()))
    return table if driven or recorded else Text("")


def _latency(report: Mapping[str, Any]) -> str:
    found = report.get("latency")
    if not found:
        return ""
    parts = [
        f"{value_of(found[key]):.1f} ms ({key[:3]})"
        for key in ("p50_ms", "p95_ms", "p99_ms")
        if value_of(found.get(key))
    ]
    where = f" on {found['device']}" if found.get("device") else ""
    floor = f"; {found['times_floor']:.1f} x reading the weights" if found.get("times_floor") else ""
    return f"  one step of one robot{where}: {', '.join(parts)}{floor}" if parts else ""


def _others(report: Mapping[str, Any]) -> str:
    """Parts that this screen does not know are at least named."""
    names = [name for name, section in sections(report).items() if name not in tables.KNOWN and section]
    return f"  also measured: {', '.join(names)}" if names else ""


def _files(files: Mapping[str, Any], folder: Path) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("Report", Text(f"{folder / files['page']} (figures: {files['report']})", overflow="fold"))
    if files.get("videos"):
        names = ", ".join(Path(path).name for path in files["videos"])
        table.add_row("Films", Text(f"{folder / Path(files['videos'][0]).parent} ({names})", overflow="fold"))
    return table


def _next(report: Mapping[str, Any], run: Path, commands: int) -> RenderableType:
    """Commands that help with what the report shows, the most useful first."""
    lines = Text("What to try next", style="bold")
    for command, why in ideas(report, run)[:commands]:
        lines.append(f"\n  {command}", style="cyan").append(f"\n    {why}", style="dim")
    return lines
