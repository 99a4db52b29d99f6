"""Owns the chapters of report.html: each takes the report and gives its HTML, or nothing where it has nothing to say.

In: report.json as plain values, the folder it lies in, facts of the run. Out: HTML. Tables come from tables.py,
drawings from figures.py, pictures from media.py; here they get their sentences.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.core.page import section, table, tag, text
from src.evaluation.report import facts, figures, media, tables, words
from src.evaluation.report.figures import Series
from src.evaluation.report.record import SPLIT_ROLES

Report = Mapping[str, Any]


def not_measured(report: Report) -> str:
    """Parts that broke, first of all chapters: what they would have said is missing."""
    rows = "".join(f"<li><b>{text(part)}</b>: {text(why)}</li>" for part, why in report["failed"].items())
    note = "<p>The checkpoint is kept. Mend the cause and evaluate again.</p>"
    return section("Failed to measure", f'<ul class="bad plain">{rows}</ul>{note}') if rows else ""


def scores(report: Report) -> str:
    """Policy, expert and baselines side by side."""
    found = tables.scores(report)
    if not found.rows:
        return ""
    said = ""
    if found.marked:
        said += f"<p class=bad><b>✕ The policy is not better than {text(_who(found, found.marked))}.</b></p>"
    if found.open:
        said += (
            f"<p class=open><b>? Too few to tell whether the policy is better than {text(_who(found, found.open))}: "
            "with so few pairs, no result could have shown it.</b></p>"
        )
    if report.get("baselines") and not said:
        said = "<p class=good><b>✓ The policy is better than every baseline here.</b></p>"
    note = (
        "<p class=small>In brackets: 95 % interval. Recorded error: share of the half range of the axes, lower is "
        "better. Compared on the same tasks and frames, in pairs.</p>" + _counts(found)
    )
    return section("Scores beside simple drivers", said, render(found, names=True), note, _advantage(report))


def _who(found: tables.Table, cells: Collection[tuple[int, int]]) -> str:
    """Drivers of some cells, by column; columns with the same drivers share the list."""
    where: dict[str, list[str]] = {}
    for c in sorted({c for _, c in cells}):
        who = ", ".join(found.rows[r][0] for r, column in sorted(cells) if column == c)
        where.setdefault(who, []).append(found.columns[c].title)
    return "; ".join(f"{who} ({'; '.join(columns)})" for who, columns in where.items())


def _counts(*found: tables.Table) -> str:
    """What `n=113/6` means, where these tables say so."""
    said = words.count_explained(cell for one in found for row in one.rows for cell in row)
    return f"<p class=small>{text(said)}.</p>" if said else ""


def _advantage(report: Report) -> str:
    """The paired comparisons behind the marks."""
    found = tables.advantage(report)
    if not found.rows:
        return ""
    part = report["baselines"]
    said = ["Success, or less error, in points; above 0 the policy is better."]
    if part.get("p_values"):
        said.append(f"p: {part['p_values']}.")
    rows = facts.leaves({"nearest neighbours": part.get("features") or {}})
    said += [f"{path.replace('/', ', ')}: {value}." for path, value in rows]
    note = f"<p class=small>{text(' '.join(said))}</p>"
    return f"<details><summary>Advantage over each, in pairs</summary>{render(found)}{note}</details>"


def recorded(report: Report) -> str:
    """Recorded frames: per axis, scenario and phase, over the horizon, confusion, integrated paths."""
    offline = report.get("offline")
    if not offline:
        return ""
    role = offline.get("split_role") or SPLIT_ROLES.get(offline.get("split"), offline.get("split"))
    shown = [
        ("error", "error", True), ("direction_accuracy", "direction right", True), ("macro_f1", "macro F1", True),
        ("within_tolerance", "within tolerance", True),
    ]  # fmt: skip
    tiles = [(title, words.number(offline[key], percent)) for key, title, percent in shown if key in offline]
    tiles += [("frames", str(offline.get("n", "–"))), ("independent groups", str(offline.get("groups", "–")))]
    parts = [f"<p>Split: {text(role)}.</p>", _tiles(tiles)]
    deep = (tables.axes(report), tables.scenarios(report), tables.phases(report), tables.trajectory(report))
    parts.append(_counts(*deep))
    parts.append(_titled("Per axis, in SI units", render(deep[0])))
    drawn = _horizon(offline.get("horizon") or {})
    confusion = tables.confusion(report)
    if confusion:
        drawn += (
            f"<div><h3>Which direction it takes for which</h3>{figures.confusion(*confusion)}"
            "<p class=small>Framed: right. Percent of the row.</p></div>"
        )
    parts.append(f"<div class=pair>{drawn}</div>" if drawn else "")
    parts.append(_titled("Per scenario", render(deep[1])))
    parts.append(_titled("Per phase of the drive", render(deep[2])))
    parts.append(_titled("Where the commands alone would lead", render(deep[3]), _paths(offline)))
    parts.append(_unmeasured(offline))
    return section("On recorded frames", *parts)


def _unmeasured(offline: Mapping[str, Any]) -> str:
    """What this data cannot show, with the reason."""
    found = {key: (offline.get(key) or {}).get("not_measured") for key in ("confusion", "trajectory")}
    return "".join(f"<p class=small>No {key}: {text(why)}.</p>" for key, why in found.items() if why)


def _horizon(horizon: Mapping[str, Any]) -> str:
    steps = [(int(step), item) for step, item in horizon.items() if words.value_of(item) is not None]
    if not steps:
        return ""
    low = [None if e["low"] is None else 100 * e["low"] for _, e in steps]
    high = [None if e["high"] is None else 100 * e["high"] for _, e in steps]
    line = Series("error", [s for s, _ in steps], [100 * e["value"] for _, e in steps], low, high)
    first, last = words.count(steps[0][1]), words.count(steps[-1][1])
    counts = f"{first} at the first step, {last} at the last; band: 95 % interval"
    drawn = figures.chart("Error over the horizon", [line], "step of the chunk", "% of the half range")
    return f"<div><h3>How far ahead it knows</h3>{drawn}<p class=small>{text(counts)}</p></div>"


def _paths(offline: Mapping[str, Any]) -> str:
    """Recorded and predicted ways of a few episodes, where the report holds them."""
    found = (offline.get("trajectory") or {}).get("paths") or []
    drawn = "".join(figures.paths(str(one["episode"]), one["recorded"], one["predicted"]) for one in found)
    key = (
        figures.legend(["recorded", "predicted"])
        + "<p class=small>From above, grid 1 m; it starts at the ring.</p>"
    )
    return f"<div class=small-multiples>{drawn}</div>{key}" if drawn else ""


def training(report: Report, run: Path | None) -> str:
    """Curves and what they say."""
    rows = facts.curves(run)
    best = (report["provenance"].get("checkpoint") or {}).get("step")
    loss = figures.chart("Loss", facts.loss_series(rows), "step", "as trained", best)
    mae = figures.chart(
        "Validation error", facts.mae_series(rows), "step", "mean absolute error, SI units", best
    )
    drawn = f"<div class=pair>{loss}{mae}</div>" if loss or mae else ""
    if best is not None and drawn:
        drawn += "<p class=small>Dashed vertical line: the checkpoint that was measured.</p>"
    return section(
        "Training curves", _curve_verdicts((report.get("offline") or {}).get("curves") or {}), drawn
    )


def _curve_verdicts(curves: Mapping[str, Any]) -> str:
    """Sentences about the curves, each with its answer, or why there are none."""
    if "not_measured" in curves:
        return f"<p>Not judged: {text(curves['not_measured'])}.</p>"
    rows = ""
    for key, verdict in (curves.get("verdicts") or {}).items():
        kind = {"yes": "good", "no": "soft"} if key == "best_stands_out" else {"yes": "bad", "no": "good"}
        if key == "still_improving":
            kind = {"yes": "open", "no": "soft"}
        label = f"{words.spell(key)}: {verdict['answer']}"
        rows += f"<li>{tag(label, kind.get(verdict['answer'], 'open'))} {text(verdict['words'])}</li>"
    return f"<ul class=reasons>{rows}</ul>" if rows else ""


def probes(report: Report, folder: Path) -> str:
    """What changes when the input changes: words, image, history; the coloured words; the occlusion maps."""
    found = report.get("probes")
    if not found:
        return ""
    driven, seen = tables.driven(report), tables.recorded(report)
    parts = []
    if driven.rows:
        where = (found.get("driven") or {}).get("suite", "the simulator")
        rows = [[_said(row[0]), words.effect(row[0], row[1]), row[2]] for row in driven.rows]
        again = tables.Table(driven.name, driven.columns, rows)
        parts.append(_titled(f"Other words, the same room: {where}", render(again)))
    if seen.rows:
        rows = [[words.RECORDED.get(row[0], words.spell(row[0])), *row[1:]] for row in seen.rows]
        keep = [c for c in range(4) if c == 0 or any(row[c] is not None for row in rows)]
        again = tables.Table(
            seen.name, [seen.columns[c] for c in keep], [[row[c] for c in keep] for row in rows]
        )
        note = (
            "<p class=small>Action moves: mean change of the executed action, share of the half range. Error rises: "
            "above 0 the changed input makes it worse. Flips: share of episodes that now go where the words demand.</p>"
            + _counts(seen)
        )
        parts.append(_titled("Changed input on recorded frames", render(again), note))
    untried = "".join(
        f"<li>{text(words.RECORDED.get(kind, words.spell(kind)))}: {text(why)}</li>"
        for kind, why in (found.get("not_measured") or {}).items()
    )
    parts.append(_titled("Not tried", f"<ul class='reasons small'>{untried}</ul>") if untried else "")
    parts.append(_strips(found.get("words") or []))
    parts.append(_occlusion(report, folder))
    return section("Does it listen, look and remember?", *parts)


def _said(kind: str) -> str:
    return words.DRIVEN[kind][0] if kind in words.DRIVEN else words.spell(kind)


def _strips(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    known = [words.value_of(w["change"]) or 0.0 for one in found for w in one["words"]]
    full = max([*known, 0.02])
    strips = "".join(
        f"<p class=small>{text(one['episode'])}</p>"
        + figures.strip([(w["word"], words.value_of(w["change"])) for w in one["words"]], full)
        for one in found
    )
    note = (
        "<p class=small>Below each word: how far the action moves when this word is left out, share of the half range. "
        f"The strongest colour stands for {100 * full:.0f} %.</p>"
    )
    return _titled("Which word moves it", strips, note)


def _occlusion(report: Report, folder: Path) -> str:
    frames = ((report.get("probes") or {}).get("occlusion") or {}).get("frames") or []
    drawn = []
    for frame in frames:
        said = f"{frame['episode']}, step {frame['t']}: strongest cell moves the action by {_peak(frame['grid'])}"
        path = folder / str(frame.get("image") or "")
        drawn.append(media.embed(path, said, 480) if path.is_file() else figures.grid(frame["grid"], said))
    note = "<p class=small>Each cell was covered in turn; the stronger the colour, the more the action moves.</p>"
    return (
        _titled("Which part of the picture moves it", f"<div class=maps>{''.join(drawn)}</div>", note)
        if drawn
        else ""
    )


def _peak(grid: Sequence[Sequence[float]]) -> str:
    return words.number(max((v for row in grid for v in row), default=None))


def closed_loop(report: Report, folder: Path) -> str:
    """Suites, contact sheet, films."""
    found = tables.suites(report)
    if not found.rows:
        return ""
    parts = []
    for suite, arms in report["closed_loop"].items():
        columns = [
            c for c, column in enumerate(found.columns) if c == 0 or column.title.startswith(f"{suite}, ")
        ]
        rows = []
        for row in found.rows:
            title, percent = words.DRIVING.get(row[0], (words.spell(row[0]), False))
            cells = [figure(row[c], percent) for c in columns[1:]]
            if any(cell != "–" for cell in cells):
                rows.append([text(title), *cells])
        head = ["figure", *[text(found.columns[c].title.rpartition(", ")[2]) for c in columns[1:]]]
        parts.append(f"<div><h3>{text(suite)}</h3>{_tasks(arms)}{table(head, rows, caption=suite)}</div>")
    sheet = media.contact_sheet(report, folder)
    shown = media.embed(sheet, "start, middle and end of driven episodes") if sheet else ""
    films, room = "", media.EMBED
    for path in media.videos(report, folder):
        drawn, used = media.film(path, folder, f"{path.stem} episode", room)
        films, room = films + drawn, room - used
    return section(
        "Driving in the simulator",
        f"<div class=pair>{''.join(parts)}</div>",
        _titled("Films", f"<div class=films>{films}</div>") if films else "",
        _titled("Episodes at a glance", f"<div class=scroll tabindex=0><div class=sheet>{shown}</div></div>")
        if shown
        else "",
    )


def _tasks(suite: Mapping[str, Any]) -> str:
    """Which tasks of which version of the suite."""
    said = [f"{key} {suite[key]}" for key in ("tasks", "version") if suite.get(key) is not None]
    return f"<p class=small>{text(', '.join(said))}</p>" if said else ""


def other_parts(report: Report) -> str:
    """Sections of parts that this page does not know."""
    out = ""
    for found in tables.others(report):
        out += section(words.spell(found.name), render(found))
    return out


def cost(report: Report) -> str:
    """Time, memory, size and latency."""
    return section("Cost", _tiles(facts.cost(report)))


def provenance(report: Report) -> str:
    """Where every figure comes from, the settings of the evaluation, the times it took."""
    main = table(["fact", "value"], _cells(facts.provenance(report)), words=(0, 1))
    more = ""
    for name, rows in (
        ("Settings of this evaluation", facts.leaves(report["settings"])),
        ("Seconds it took", facts.leaves(report["timings"])),
    ):
        if rows:
            inside = table(["name", "value"], _cells(rows), words=(0, 1))
            more += f"<details><summary>{name}</summary>{inside}</details>"
    return section("Where the figures come from", main, more)


def _cells(rows: Sequence[tuple[str, str]]) -> list[list[str]]:
    return [[text(name), f"<code>{text(value)}</code>"] for name, value in rows]


def render(found: tables.Table, names: bool = False) -> str:
    """A table as HTML; `names`: rows are drivers, who are introduced; empty for a table without rows."""
    if not found.rows:
        return ""
    rows = []
    for r, row in enumerate(found.rows):
        name = text(row[0])
        if names:
            bold = f"<b>{name}</b>" if row[0] == "policy" else name
            name = f"{bold} <span class=small>{text(words.ABOUT.get(row[0], ''))}</span>"
        cells = [name]
        for c, cell in enumerate(row[1:], 1):
            column = found.columns[c]
            mark = f"{tag('✕ not beaten', 'bad')} " if (r, c) in found.marked else ""
            mark += f"{tag('? too few', 'open')} " if (r, c) in found.open else ""
            cells.append(mark + figure(cell, column.percent, column.full))
        rows.append(cells)
    texts = [c for c in range(len(found.columns)) if all(isinstance(row[c], str) for row in found.rows)]
    return table([text(column.title) for column in found.columns], rows, texts, found.name)


def figure(item: Any, percent: bool = True, full: float | None = None) -> str:
    """One cell: the number with its n, and its interval as a bar where `full` says how long the rail is."""
    if not words.is_figure(item):
        return "–" if item is None else text(f"{item:.4g}" if isinstance(item, float) else item)
    if item["value"] is None:
        return "–"
    bar = figures.whisker(item["value"], item["low"], item["high"], full) if full else ""
    return f"{_unbroken(words.number(item, percent))}<small class=soft> {words.count(item)}</small>{bar}"


def _unbroken(number: str) -> str:
    """A value and its interval, which may stand on two lines but are not torn in themselves."""
    value, bracket, spread = number.partition(" (")
    inside = f" <span class=whole>({text(spread)}</span>" if bracket else ""
    return f"<span class=whole>{text(value)}</span>{inside}"


def _titled(title: str, *content: str) -> str:
    inside = "".join(content)
    return f"<h3>{text(title)}</h3>{inside}" if inside else ""


def _tiles(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f"<div class=tile><span>{text(k)}</span><b>{_unbroken(v)}</b></div>" for k, v in rows)
    return f"<div class=tiles>{cells}</div>" if cells else ""
