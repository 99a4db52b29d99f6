"""Owns report.json: the one file in which a run says what it can do, and how sure it is.

In: figures (`Estimate`, `PairedTest`, `Verdict`) nested in dictionaries. Out: plain JSON with a schema version, every
figure with its n and interval, a flat `metrics` map for tables, and a verdict line. Same run, same seeds, same
figures; only `timings` and `latency` differ between two evaluations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.core.files import atomic_write_json
from src.evaluation.statistics import Estimate, PairedTest

SCHEMA_VERSION = 2
FILE = "report.json"
RESERVED = ("schema_version", "verdict", "settings", "provenance", "failed", "metrics", "files", "timings")
"""Top-level keys that are no part's section."""
_DETAIL = ("scenarios", "phases", "files")  # too fine for the flat map; they stay in their place


def plain(value: Any) -> Any:
    """Figures to JSON types, recursively."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.to_dict() if hasattr(value, "to_dict") else value


def metrics(report: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Every figure of a report as `path/to/figure` → value, for tables, W&B and searches.

    A figure is whatever has an n and an interval. Lists, and tables per scenario and per phase, are too fine for it;
    a figure without a value (nothing was measured) is left out.
    """
    out: dict[str, float] = {}
    for key, item in report.items():
        path = f"{prefix}{key}"
        if isinstance(item, (Estimate, PairedTest)):
            item = item.to_dict()
        if not isinstance(item, Mapping) or key in _DETAIL:
            continue
        if "interval" in item and "n" in item:
            if item["value"] is not None:
                out[path] = float(item["value"])
        else:
            out |= metrics(item, f"{path}/")
    return out


VERDICTS = {
    "listens": "listens",
    "looks": "looks",
    "remembers": "uses its history",
    "objects": "tells objects apart",
}
"""Key of an answer in the verdict → what it is called."""


def verdict_line(verdict: Mapping[str, Any], baselines: Mapping[str, Any] | None = None) -> str:
    """`success 77 % (…) on full1/layout · listens: yes · looks: yes · …`, the first line of the report.

    `baselines`: their section, which knows how few pairs were too few.
    """
    parts = [verdict["success"]] if verdict["success"] else []
    parts += [f"{name}: {verdict[key]['answer']}" for key, name in VERDICTS.items()]
    parts += [f"does not beat: {', '.join(verdict['not_beaten'])}"] if verdict["not_beaten"] else []
    few = too_few(verdict, baselines)
    parts += [f"too few to tell: {few}"] if few else []
    parts += [f"FAILED to measure: {', '.join(verdict['failed'])}"] if verdict["failed"] else []
    return " · ".join(parts)


def too_few(verdict: Mapping[str, Any], baselines: Mapping[str, Any] | None = None) -> str:
    """`random, clock (6 groups)`: baselines whom no result could have beaten with so few pairs; empty for none.

    `baselines`: their section, figures as objects or plain; without it, or where it does not hold these names, the
    number of pairs is left out. Reports of older evaluations have no such list.
    """
    names = list(verdict.get("too_few") or [])
    if not names:
        return ""
    section = plain(baselines or {})
    listed, tests = section.get("too_few") or {}, section.get("advantage") or {}
    places = [("episode", arms, (tests.get("closed_loop") or {}).get(suite) or {})
              for suite, arms in (listed.get("closed_loop") or {}).items()]  # fmt: skip
    places.append(("group", listed.get("offline") or [], tests.get("offline") or {}))
    for unit, found, compared in places:  # the first suite is the one that the verdict speaks of
        if set(names) <= set(found) & set(compared):
            n = compared[names[0]]["difference"]["n"]
            return f"{', '.join(names)} ({n} {unit}{'s' * (n != 1)})"
    return ", ".join(names)


def sections(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any] | None]:
    """Part → its section, in the order of measuring; None where the part failed."""
    return {key: item for key, item in report.items() if key not in RESERVED}


SPLIT_ROLES = {
    "val": "val, which also chose the checkpoint",
    "test": "test, which took no part in training",
}


def write(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write `report` as <folder>/report.json in one atomic step."""
    path = folder / FILE
    atomic_write_json(path, plain(report))
    return path


def read(folder: Path) -> dict[str, Any]:
    """The report of a run folder; a missing, broken or foreign one is a sentence, not a traceback."""
    path = folder / FILE
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be read ({error.strerror}); write it with: python -m src.evaluate run={folder}"
        ) from error
    except json.JSONDecodeError as error:
        raise ProjectError(
            f"{path} is no JSON ({error}); repair: python -m src.evaluate run={folder}"
        ) from error
    version = report.get("schema_version") if isinstance(report, dict) else None
    if version != SCHEMA_VERSION:
        raise ProjectError(
            f"{path} has schema_version {version}, this code reads {SCHEMA_VERSION}; "
            f"write it again: python -m src.evaluate run={folder}"
        )
    return report


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of flat dictionaries as CSV text, columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(columns)]
    lines += [",".join(_cell(row.get(column)) for column in columns) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text
