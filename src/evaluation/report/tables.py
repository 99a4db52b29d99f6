"""Owns the tables of a report, once for every reader: page, screen and W&B show the same rows under the same names.

In: report.json as plain values. Out: `Table`s whose cells are texts, numbers or figures with n and interval. A part
that was not measured, or failed, has no table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.evaluation.report import words
from src.evaluation.report.record import sections

SCORE_FIGURES = (
    ("error", "error", True),
    ("direction_accuracy", "direction right", True),
    ("macro_f1", "macro F1", True),
    ("within_tolerance", "within tolerance", True),
)
KNOWN = ("offline", "baselines", "closed_loop", "probes", "latency")
"""Parts with chapters of their own; every other part gets a table of its figures."""


@dataclass(frozen=True)
class Column:
    """`percent`: its figures are shares. `full`: the end of the rail behind a figure; None: none is drawn."""

    title: str
    percent: bool = True
    full: float | None = None


@dataclass(frozen=True)
class Table:
    """`name`: as in W&B. `rows`: the first cell is the row's name; `marked`: (row, column) of baselines that are
    not beaten; `open`: of those for whom there were too few pairs to tell."""

    name: str
    columns: list[Column]
    rows: list[list[Any]]
    marked: frozenset[tuple[int, int]] = frozenset()
    open: frozenset[tuple[int, int]] = frozenset()


def tables(report: Mapping[str, Any]) -> list[Table]:
    """Every table that has rows."""
    found = [
        scores(report),
        advantage(report),
        scenarios(report),
        phases(report),
        axes(report),
        trajectory(report),
    ]
    found += [suites(report), recorded(report), driven(report), words_left_out(report), *others(report)]
    return [table for table in found if table.rows]


def scores(report: Mapping[str, Any]) -> Table:
    """Policy, expert and baselines beside each other: success per suite, error on recorded frames."""
    suites, offline = report.get("closed_loop") or {}, report.get("offline") or {}
    baselines = report.get("baselines") or {}
    driven, scored = baselines.get("closed_loop") or {}, baselines.get("offline") or {}
    lists = [baselines.get(key) or {} for key in ("not_beaten", "too_few")]
    columns, cells, weak = (
        [Column("driver")],
        [],
        [],
    )  # per column: driver → figure, and names in the two lists
    for suite in dict.fromkeys([*suites, *driven]):
        arms = {name: suites.get(suite, {}).get(name) for name in ("policy", "expert")} | driven.get(
            suite, {}
        )
        columns.append(Column(f"success, {suite}", full=1.0))
        cells.append({name: figures.get("success") for name, figures in arms.items() if figures})
        weak.append([(one.get("closed_loop") or {}).get(suite, []) for one in lists])
    for key, title, percent in SCORE_FIGURES[:2]:
        column = {name: figures[key] for name, figures in scored.items() if key in figures}
        if key in offline:
            column["policy"] = offline[key]
        if column:
            full = 1.0 if key != "error" else max(words.value_of(item) or 0.0 for item in column.values())
            columns.append(Column(f"recorded: {title}", percent, full))
            cells.append(column)
            weak.append([one.get("offline", []) if key == "error" else [] for one in lists])
    names = list(dict.fromkeys(["policy", "expert", *[name for column in cells for name in column]]))
    names = [name for name in names if any(name in column for column in cells)]
    rows = [[name, *[column.get(name) for column in cells]] for name in names]
    marked, open_ = (
        frozenset(
            (names.index(name), c + 1) for c, both in enumerate(weak) for name in both[i] if name in names
        )
        for i in range(2)
    )
    return Table("scores", columns, rows, marked, open_)


def scenarios(report: Mapping[str, Any]) -> Table:
    return _breakdown("offline/scenarios", "scenario", (report.get("offline") or {}).get("scenarios") or {})


def phases(report: Mapping[str, Any]) -> Table:
    return _breakdown("offline/phases", "phase", (report.get("offline") or {}).get("phases") or {})


def _breakdown(name: str, what: str, groups: Mapping[str, Any]) -> Table:
    figures = [
        (key, title, percent)
        for key, title, percent in SCORE_FIGURES
        if any(key in g for g in groups.values())
    ]
    highest = max((words.value_of(g.get("error")) or 0.0 for g in groups.values()), default=0.0)
    columns = [Column(what), Column("frames")]
    columns += [
        Column(title, percent, highest if key == "error" else None) for key, title, percent in figures
    ]
    rows = [
        [group, item.get("n"), *[item.get(key) for key, _, _ in figures]] for group, item in groups.items()
    ]
    return Table(name, columns, rows)


def axes(report: Mapping[str, Any]) -> Table:
    """Error per axis in its unit: at the executed action, and over the chunk."""
    offline = report.get("offline") or {}
    kinds = [("mae", "MAE"), ("rmse", "RMSE"), ("mae_horizon", "MAE, chunk"), ("rmse_horizon", "RMSE, chunk")]
    kinds = [(key, title) for key, title in kinds if key in offline]
    names = list(dict.fromkeys(axis for key, _ in kinds for axis in offline[key]))
    columns = [Column("axis"), *[Column(title, percent=False) for _, title in kinds]]
    return Table("offline/axes", columns, [[a, *[offline[key].get(a) for key, _ in kinds]] for a in names])


def trajectory(report: Mapping[str, Any]) -> Table:
    """Figures of the integrated paths, each in the unit that its name says or m and rad."""
    found = (report.get("offline") or {}).get("trajectory") or {}
    rows = [[words.spell(path), item] for path, item in _figures(found) if path != "not_measured"]
    return Table("offline/trajectory", [Column("open-loop path"), Column("figure", percent=False)], rows)


def suites(report: Mapping[str, Any]) -> Table:
    """Every figure of every suite, policy beside expert."""
    columns = [Column("figure")]
    arms = []
    for suite, drivers in (report.get("closed_loop") or {}).items():
        for driver in ("policy", "expert"):
            if driver in drivers:
                columns.append(Column(f"{suite}, {driver}"))
                arms.append(drivers[driver])
    keys = [key for key in words.DRIVING if any(key in arm for arm in arms)]
    keys += [key for arm in arms for key in arm if words.is_figure(arm[key]) and key not in keys]
    rows = [[key, *[arm.get(key) for arm in arms]] for key in dict.fromkeys(keys)]
    return Table("closed_loop/suites", columns, rows)


def recorded(report: Mapping[str, Any]) -> Table:
    """What a changed input does to the action on recorded frames."""
    probes = (report.get("probes") or {}).get("recorded") or {}
    columns = [
        Column("changed input"),
        Column("action moves", full=0.5),
        Column("error rises by"),
        Column("flips"),
    ]
    rows = [
        [name, item.get("change"), _difference(item.get("error_rise")), item.get("flip")]
        for name, item in probes.items()
    ]
    return Table("probes/recorded", columns, rows)


def driven(report: Mapping[str, Any]) -> Table:
    """What changed words do to the drive in the simulator; only probes with episodes that could show it."""
    probes = (report.get("probes") or {}).get("driven") or {}
    rows = []
    for kind, item in probes.items():
        if isinstance(item, Mapping):
            for key, figure in ({"named_object": item} if words.is_figure(item) else item).items():
                figure = _difference(figure)
                if words.is_figure(figure) and figure["n"]:
                    rows.append([kind, key, figure])
    return Table(
        "probes/driven", [Column("changed words"), Column("figure"), Column("share", full=1.0)], rows
    )


def words_left_out(report: Mapping[str, Any]) -> Table:
    """How far the action moves when one word of the instruction is left out."""
    found = (report.get("probes") or {}).get("words") or []
    rows = [
        [one["episode"], one["instruction"], w["word"], w["change"]] for one in found for w in one["words"]
    ]
    return Table(
        "probes/words", [Column("episode"), Column("instruction"), Column("word"), Column("change")], rows
    )


def others(report: Mapping[str, Any]) -> Iterator[Table]:
    """Parts that this page does not know: one row per figure."""
    for name, section in sections(report).items():
        if name not in KNOWN and section:
            rows = [[path, item] for path, item in _figures(section)]
            yield Table(name, [Column("figure"), Column("value", percent=False)], rows)


def advantage(report: Mapping[str, Any]) -> Table:
    """How much better than each baseline the policy is on the same tasks and frames, above 0: better; with p-values."""
    found = (report.get("baselines") or {}).get("advantage") or {}
    tests = {suite: arms for suite, arms in (found.get("closed_loop") or {}).items() if arms}
    if found.get("offline"):
        tests["recorded error"] = found["offline"]
    columns = [Column("over")]
    for where in tests:
        columns += [Column(where), Column("p", percent=False)]
    names = dict.fromkeys(name for arms in tests.values() for name in arms)
    rows: list[list[Any]] = []
    for name in names:
        pairs = [arms.get(name) or {"difference": None, "p": None} for arms in tests.values()]
        rows.append([name, *(cell for one in pairs for cell in (one["difference"], one["p"]))])
    return Table("baselines/advantage", columns, rows)


def confusion(report: Mapping[str, Any]) -> tuple[list[str], list[list[int]]] | None:
    """Class names and counts (recorded × said); None where the actions have no classes."""
    found = (report.get("offline") or {}).get("confusion") or {}
    return (found["classes"], found["counts"]) if "counts" in found else None


def _figures(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in node.items():
        if words.is_figure(item):
            yield f"{prefix}{key}", item
        elif isinstance(item, Mapping):
            yield from _figures(item, f"{prefix}{key}/")
        elif not isinstance(item, (Sequence, bool)) and item is not None or isinstance(item, str):
            yield f"{prefix}{key}", item


def _difference(item: Any) -> Any:
    """The figure of a paired test, or what is no test as it is."""
    return item["difference"] if isinstance(item, Mapping) and "difference" in item else item
