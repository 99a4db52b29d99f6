"""Owns the book about the test split: who read it, when, and for which checkpoint.

In: a run folder and the checkpoint to be measured on the test split. Out: <run>/test_reads.json, one entry per reading,
written before the first test frame is read, so that a killed reading counts as well. A test split that has judged one
checkpoint may not choose another one of the same run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, exclusive, file_sha256

FILE = "test_reads.json"


@dataclass
class Reading:
    """One reading of the test split."""

    run: Path
    entries: list[dict[str, Any]]

    @classmethod
    def open(cls, run: Path, checkpoint: Path, folder: Path, allow_second: bool) -> Reading:
        """Note that the test split is about to be read for `checkpoint`, with the report in `folder`.

        Raises:
            ProjectError: it was read for another checkpoint before, and `allow_second` is false.
        """
        digest = file_sha256(checkpoint)[:16]
        with exclusive(run / FILE):
            entries = read(run)
            others = [entry for entry in entries if entry["sha256"] != digest]
            if others and not allow_second:
                raise ProjectError(
                    f"evaluation.split is test, but the test split of {run} was read on {others[0]['at']} for other "
                    f"weights ({others[0]['checkpoint']}), and a second choice would be made by it; use "
                    "evaluation.split=val, or set evaluation.allow_second_test=true and say so where you publish."
                )
            entries.append(
                {
                    "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    "checkpoint": checkpoint.name,
                    "sha256": digest,
                    "report": str(folder.relative_to(run)) if folder.is_relative_to(run) else str(folder),
                    "state": "begun",
                }
            )
            atomic_write_json(run / FILE, entries)
        return cls(run, entries)

    def close(self, failed: dict[str, str]) -> None:
        """Note how the reading ended."""
        with exclusive(self.run / FILE):
            entries = read(self.run)
            entries[len(self.entries) - 1]["state"] = "failed in part" if failed else "done"
            atomic_write_json(self.run / FILE, entries)

    def facts(self) -> list[dict[str, Any]]:
        """Every reading up to this one, for the report."""
        return [{key: entry[key] for key in ("at", "checkpoint", "sha256")} for entry in self.entries]


def read(run: Path) -> list[dict[str, Any]]:
    """The entries so far, oldest first."""
    path = run / FILE
    if not path.exists():
        return []
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ProjectError(
            f"{path}: found no JSON ({error}), expected the list of readings of the test split; restore the file."
        ) from error
    return entries
