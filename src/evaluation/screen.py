"""Owns the last screen of a training or an evaluation: what the policy can do, for a reader who is new here.

In: a report (plain values, as in report.json) and its run folder. Out: at most 40 lines of 100 columns on a terminal:
verdict first, then the table with the baselines beside the policy, the probes, where the files lie, what to try.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from src.evaluation.advice import ideas
from src.evaluation.report import SPLIT_ROLES, VERDICTS

WIDTH = 100
COLOURS = {"yes": "green", "no": "red", "not decided": "yellow", "not measured": "yellow"}
ABOUT = {
    "policy": "the trained policy",
    "expert": "knows the map, the best possible",
    "majority": "the most frequent action, always",
    "mean": "the mean action, always",
    "repeat_last": "the previous action again",
    "clock": "the mean action at this time step",
    "random": "any action",
    "straight": "straight ahead",
}
PROBES = {
    "swapped": ("left and right swapped in the words", "takes the other side"),
    "retargeted": ("another object of the room named", "goes to another object"),
    "shuffled": ("the words of another task", "still succeeds"),
    "blank": ("no words at all", "still succeeds"),
}


def show(
    report: Mapping[str, Any], folder: Path, run: Path | None = None, console: Console | None = None
) -> None:
    """Print the end screen; `folder` holds the report, `run` is the run it belongs to (default: the same)."""
    (console or Console(width=WIDTH, soft_wrap=False)).print(render(report, folder, run))


def render(report: Mapping[str, Any], folder: Path, run: Path | None = None) -> RenderableType:
    """The end screen as one rich renderable."""
    parts: list[RenderableType] = [_verdict(report["verdict"]), _scores(report)]
    if report["probes"]:
        parts.append(_probes(report["probes"]))
    parts += [_files(report["files"], folder), _next(report, run or folder)]
    return Group(*parts)


def number(estimate: Mapping[str, Any] | None, percent: bool = True) -> str:
    """`77 % (71–83)` or `0.123 (0.110–0.140)`; a dash where nothing was measured."""
    if not estimate or estimate["value"] is None:
        return "–"
    scale, form = (100, ".0f") if percent else (1, ".3f")
    value = f"{scale * estimate['value']:{form}}" + (" %" if percent else "")
    if estimate["low"] is None:
        return value
    return f"{value} ({scale * estimate['low']:{form}}–{scale * estimate['high']:{form}})"


def _verdict(verdict: Mapping[str, Any]) -> RenderableType:
    text = Text(verdict["success"] or "not driven in a simulator", style="bold")
    for key, name in VERDICTS.items():
        answer = verdict[key]["answer"]
        text.append(f"\n{name}: ", style="bold")
        text.append(answer, style=f"bold {COLOURS[answer]}")
        text.append(f", {verdict[key]['words']}", style="default")
    beaten = verdict["not_beaten"]
    if beaten:
        text.append(f"\nno better than: {', '.join(beaten)}", style="bold red")
    return Panel(text, title="What this policy can do", title_align="left", width=WIDTH, box=box.ROUNDED)


def _scores(report: Mapping[str, Any]) -> RenderableType:
    """Policy, expert and baselines in one table: success per suite, error on recorded drives."""
    suites, offline = report["closed_loop"] or {}, report["offline"]
    table = Table(box=box.SIMPLE_HEAD, width=WIDTH, padding=(0, 1), show_edge=False)
    table.add_column("driver", no_wrap=True)
    for name, figures in suites.items():
        table.add_column(
            f"{name}\nsuccess, n={figures['policy']['success']['n']}", justify="right", no_wrap=True
        )
    if offline:
        heading = f"recorded frames\nerror, n={offline['policy']['n']}"
        table.add_column(heading, justify="right", no_wrap=True)
    names = list(
        dict.fromkeys(
            [name for figures in suites.values() for name in figures if name in ABOUT]
            + (["policy", *offline["baselines"]] if offline else [])
        )
    )
    for name in names:
        cells = []
        for figures in suites.values():
            mark = " *" if name in figures["not_beaten"] else ""
            cells.append(number(figures[name]["success"]) + mark if name in figures else "–")
        if offline:
            scored = offline["policy"] if name == "policy" else offline["baselines"].get(name)
            mark = " *" if name in offline["not_beaten"] else ""
            cells.append(number(scored["error"]) + mark if scored else "–")
        label = Text(name, style="bold" if name == "policy" else "").append(f"  {ABOUT[name]}", style="dim")
        table.add_row(label, *cells, style="bold" if name == "policy" else "")
    note = Text("  in brackets: 95 % interval", style="dim")
    for figures in suites.values():
        fewest = min(figures[name]["success"]["n"] for name in names if name in figures)
        if fewest < figures["policy"]["success"]["n"]:
            note.append(f"; others than the policy: n={fewest}", style="dim")
            break
    if offline:
        note.append("; error: share of the half range", style="dim")
        note.append(f"\n  recorded frames: {SPLIT_ROLES[offline['split']]}", style="dim")
    if "*" in "".join(str(cell) for column in table.columns for cell in column.cells):
        note.append("\n  * the policy is not better than this beyond the noise", style="dim")
    return Group(table, note)


def _probes(figures: Mapping[str, Any]) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, width=WIDTH, padding=(0, 1), show_edge=False)
    table.add_column(f"changed words, {figures['suite']}", no_wrap=True)
    table.add_column("then the robot", no_wrap=True)
    table.add_column("share", justify="right")
    table.add_column("n", justify="right")
    for kind, (said, effect) in PROBES.items():
        if kind in figures:
            estimate = figures[kind].get("changed") or figures[kind]["success"]
            if estimate["n"]:
                table.add_row(said, effect, number(estimate), str(estimate["n"]))
    return table


def _files(files: Mapping[str, Any], run: Path) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_row("report", Text(str(run / files["report"]), overflow="fold"))
    if files["videos"]:
        names = ", ".join(Path(path).name for path in files["videos"])
        table.add_row("videos", Text(f"{run / Path(files['videos'][0]).parent} ({names})", overflow="fold"))
    if files["contact_sheet"]:
        table.add_row("pictures", Text(str(run / files["contact_sheet"]), overflow="fold"))
    return Group(Text("\nWhere it lies", style="bold"), table)


def _next(report: Mapping[str, Any], run: Path) -> RenderableType:
    """Three commands that help with what the report shows, the most useful first."""
    lines = Text("\nWhat to try next", style="bold")
    for command, why in ideas(report, run)[:3]:
        lines.append(f"\n  {command}", style="cyan").append(f"\n    {why}", style="dim")
    return lines
