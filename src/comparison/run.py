"""Owns what a table knows of one run, wherever it was kept: in its folder, or in W&B.

In: a run record (run.json) or what the logger sent of it. Out: `Run`, plain values under the names of run.json. The
two sources give equal Runs for the same run, so that a table does not depend on where it was read from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.experiment.run_record import read_record

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
    """finished | failed | interrupted | killed | running | pruned | imported"""
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


def from_folder(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        ProjectError: no record there, or one of a version that kept too little to be compared.
    """
    record = read_record(folder)
    if "config" not in record and record.get("state") != IMPORTED:
        raise ProjectError(
            f"{folder}/run.json: found a record without its config (format {record.get('format')}), expected format 2; "
            "it was made by an older version, run it again."
        )
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError as error:
        raise ProjectError(f"{path}: cannot be read as JSON ({error}); it was edited or damaged.") from error
    return from_record(str(folder), record, report)


def from_record(run_id: str, record: Mapping[str, Any], report: Mapping[str, Any] | None = None) -> Run:
    """The run that a record (content of run.json, or the same values from W&B) describes.

    `report`: content of report.json, for the intervals of its figures.
    """
    from src.experiment.provenance import MAIN_PACKAGES

    machine = record.get("machine") or {}
    return Run(
        id=run_id,
        experiment=record.get("experiment"),
        arm=record.get("arm"),
        seed=record.get("seed"),
        state=record["state"],
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
    )


def _intervals(
    report: Mapping[str, Any], figures: Mapping[str, float], prefix: str = ""
) -> Iterator[tuple[str, Interval]]:
    """The intervals of those figures whose value in the report is the one in the record.

    A report that was measured again after the record says nothing of the record's figure.
    """
    for key, item in report.items():
        path = f"{prefix}{key}"
        if not isinstance(item, Mapping):
            continue
        if "interval" not in item or "n" not in item:
            yield from _intervals(item, figures, f"{path}/")
        elif path in figures and item["value"] is not None and abs(item["value"] - figures[path]) < 1e-6:
            units = item.get("clusters") or item["n"]
            yield path, Interval(item["low"], item["high"], int(units), str(item["interval"]))
