"""Owns what a table knows of one run, wherever it was kept: in its folder, or in W&B.

In: a run record (run.json) or what the logger sent of it. Out: `Run`, plain values under the names of run.json. The
two sources give equal Runs for the same run, so that a table does not depend on where it was read from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.experiment.run_record import read_record

UNREADABLE = "unreadable"
"""State of a run whose record nobody can read; `error` says why."""
IMPORTED = "imported"
"""State of a run whose figures were taken from elsewhere (a TensorBoard folder): little else is known of it."""


@dataclass(frozen=True)
class Interval:
    """How sure one run is of one figure, over its own episodes; in the record's unit."""

    low: float | None
    high: float | None
    n: int
    """Independent units behind it: trials, or clusters of frames."""
    method: str
    """wilson: a share of n yes/no trials; bootstrap: anything else."""


@dataclass(frozen=True)
class Run:
    """One finished (or failed, or running) run."""

    id: str
    """Where to find it: the run folder, or `<entity>/<project>/<id>` in W&B."""
    experiment: str | None
    """The comparison that it belongs to, else null."""
    arm: str | None
    seed: int | None
    state: str
    """finished | failed | interrupted | killed | running | pruned | imported | unreadable"""
    config: Mapping[str, Any]
    """Resolved, nested."""
    config_hash: str | None
    data: Mapping[str, Any]
    """Section `data` of run.json: hashes of data, split and words, episodes per split."""
    code: Mapping[str, Any]
    """sha, dirty, diff_sha256 of the code."""
    packages: Mapping[str, str]
    """The main packages and their versions."""
    metrics: Mapping[str, float]
    """Flat figures, e.g. `closed_loop/full1/layout/policy/success`."""
    cost: Mapping[str, float | None]
    """trainable_parameters, parameters, train_minutes, total_minutes, peak_memory_gb, latency_p50_ms."""
    verdict: Mapping[str, Any]
    """Answers of the report: listens, looks, remembers …, not_beaten."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """What was measured: section `settings` of report.json (suites with versions, episodes, split …)."""
    machine: str | None = None
    started: str | None = None
    command: str | None = None
    error: str | None = None
    base_model: Mapping[str, Any] | None = None
    """id and fingerprint of the weights that training started from."""
    wandb: str | None = None
    """Path of its W&B run, where it has one."""
    overrides: tuple[str, ...] = ()
    """What was typed and what its arm added, as Hydra records it."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Figure of `metrics` → its interval over the run's own episodes, from report.json."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What the training really was: epochs, steps, processes …"""
    has_report: bool = False
    """Is there a report that can be read?"""
    contradicted: Mapping[str, Any] = field(default_factory=dict)
    """Figure → what the report says, where that is not what `metrics` says."""


def from_folder(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        ProjectError: no record there, one of a version that kept too little to be compared, or damaged content.
    """
    record = _record(folder)
    if "config" not in record and record.get("state") != IMPORTED:
        raise ProjectError(
            f"{folder}/run.json: found a record without its config (format {record.get('format')}), expected format 2; "
            "it was made by an older version, run it again."
        )
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError):
        report = None  # a run without a report: audit.py says what follows from that
    return from_record(str(folder), record, report if isinstance(report, Mapping) else None)


def from_folder_or_unreadable(folder: Path) -> Run:
    """The run of a folder, with state `unreadable` and the reason where there is none to be read."""
    try:
        return from_folder(folder)
    except ProjectError as error:
        return unreadable(str(folder), str(error))


def unreadable(run_id: str, why: str) -> Run:
    """What stands for a damaged record; its arm is known by the name of its folder alone."""
    return Run(run_id, None, None, None, UNREADABLE, {}, None, {}, {}, {}, {}, {}, {}, error=why)


def _record(folder: Path) -> dict[str, Any]:
    try:
        return read_record(folder)
    except AttributeError as error:  # a list has no state
        raise ProjectError(
            f"{folder}/run.json: found no mapping, expected the record of a run; it was edited or damaged."
        ) from error


def from_record(run_id: str, record: Mapping[str, Any], report: Mapping[str, Any] | None = None) -> Run:
    """The run that a record (content of run.json, or the same values from W&B) describes.

    `report`: content of report.json, for the intervals of its figures.

    Raises:
        ProjectError: a section that is not of its kind.
    """
    from src.experiment.provenance import MAIN_PACKAGES

    _check(run_id, record)
    machine = record.get("machine") or {}
    return Run(
        id=run_id,
        experiment=record.get("experiment"),
        arm=record.get("arm"),
        seed=record.get("seed"),
        state=str(record["state"]),
        config=record.get("config") or {},
        config_hash=record.get("config_hash"),
        data=record.get("data") or {},
        code=record.get("code") or {},
        packages={k: v for k, v in (record.get("packages") or {}).items() if k in MAIN_PACKAGES},
        metrics=record.get("metrics") or {},
        cost=record.get("cost") or {},
        verdict=record.get("verdict") or {},
        evaluation=record.get("evaluation") or {},
        machine=", ".join([str(machine["cpu"]), *map(str, machine.get("gpus") or [])])
        if "cpu" in machine
        else None,
        started=record.get("started"),
        command=record.get("command"),
        error=record.get("error"),
        base_model=(record.get("model") or {}).get("base_model"),
        wandb=record.get("wandb"),
        overrides=tuple(record.get("overrides") or ()),
        intervals=dict(_intervals(report or {}, record.get("metrics") or {})),
        training=record.get("training") or {},
        has_report=bool(report),
        contradicted=_contradicted(record.get("metrics") or {}, report or {}),
    )


_KINDS: dict[str, type] = {
    **dict.fromkeys(("config", "data", "code", "packages", "metrics", "cost", "verdict", "evaluation"), dict),
    **dict.fromkeys(("training", "model", "machine"), dict),
    **dict.fromkeys(("experiment", "arm", "state", "config_hash", "started", "command", "error"), str),
    "seed": int,
    "overrides": list,
}  # fmt: skip
_WORDS = {dict: "a mapping", str: "text", int: "a whole number", list: "a list"}


def _check(run_id: str, record: object) -> None:
    """Refuse what was edited into another kind of value; null is allowed, a missing `state` is not."""
    if not isinstance(record, Mapping):
        raise ProjectError(
            f"{run_id}/run.json: found no mapping, expected the record of a run; it was damaged."
        )
    if record.get("state") is None:
        raise ProjectError(
            f"{run_id}/run.json: found no `state`, expected the record of a run; it was damaged."
        )
    for key, kind in _KINDS.items():
        value = record.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ProjectError(
                f"{run_id}/run.json: {key} is {_short(value)}, expected {_WORDS[kind]}; it was edited or damaged."
            )


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:40]}…"


def is_number(value: object) -> bool:
    """A finite number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _items(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every figure with an interval, under its flat name."""
    for key, item in report.items():
        if isinstance(item, Mapping):
            if "interval" in item and "n" in item:
                yield f"{prefix}{key}", item
            else:
                yield from _items(item, f"{prefix}{key}/")


def _intervals(report: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    """The intervals of those figures whose value in the report is the one in the record."""
    for path, item in _items(report):
        if path in figures and is_number(item.get("value")) and _same(figures[path], item["value"]):
            units = item.get("clusters") or item["n"]
            yield path, Interval(item["low"], item["high"], int(units), str(item["interval"]))


def _contradicted(figures: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """What the report says of a figure, flat or with its interval, where the record says something else or nothing."""
    flat = report.get("metrics")
    said = [*(flat.items() if isinstance(flat, Mapping) else ()),
            *((path, item.get("value")) for path, item in _items(report) if path in figures)]  # fmt: skip
    return {path: value for path, value in said if not _same(figures.get(path), value)}


def _same(one: object, two: object) -> bool:
    """Equal numbers, to the digits that a report keeps; null and NaN are both no number."""
    if is_number(one) and is_number(two):
        return abs(one - two) < 1e-6  # type: ignore[operator]
    return all(value is None or (isinstance(value, float) and not isfinite(value)) for value in (one, two))
