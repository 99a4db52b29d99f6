"""Owns the files in which driven episodes are kept: one line per episode, or everything that was done.

In: rollouts by driver. Out: <folder>/rollouts/<name>.csv for a table program, <name>.json with paths and commands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from src.core.files import atomic_write_json, atomic_write_text
from src.evaluation.driving.closed_loop import Rollout
from src.evaluation.report.record import table

FOLDER = "rollouts"


def write_rollouts(
    folder: Path, name: str, arms: Mapping[str, Sequence[Rollout]], paths_of: str | None = None
) -> list[str]:
    """Write how the episodes of every driver in `arms` ended; returns the files written, relative to `folder`.

    `name`: of the suite; a slash becomes a dash. `paths_of`: the driver whose paths (m, m, rad) and commands (SI) are
    kept as well.
    """
    stem = f"{FOLDER}/{name.replace('/', '-')}"
    rows = [
        {"controller": arm, "index": r.index, "instruction": r.task.instruction, **_flat(asdict(r.outcome))}
        for arm, driven in arms.items()
        for r in driven
    ]
    atomic_write_text(folder / f"{stem}.csv", table(rows))
    if paths_of is None:
        return [f"{stem}.csv"]
    atomic_write_json(folder / f"{stem}.json", [r.to_dict() for r in arms[paths_of]])
    return [f"{stem}.csv", f"{stem}.json"]


def _flat(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: "/".join(str(side) for side in value) if isinstance(value, (list, tuple)) else value
        for key, value in outcome.items()
    }
