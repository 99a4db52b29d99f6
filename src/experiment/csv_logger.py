"""Owns metrics.csv, the local copy of everything a run logs, readable at any time with any spreadsheet.

In: metrics with their step, from Lightning. Out: <run>/metrics.csv, one row per log call: `step`, `epoch`, then one
column per metric; empty where a metric was not logged. A row is flushed when it is written.
"""

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src.core.errors import ProjectError
from src.core.files import atomic_path
from src.experiment.run_record import RunRecord

FILE = "metrics.csv"


class CsvLogger(Logger):
    """Appends to metrics.csv; a new metric adds a column."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__()
        self._path = record.folder / FILE
        self._columns = ["step", "epoch"]
        if self._path.exists():
            self._columns = _read(self._path)[0] or self._columns

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        return self._path

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The config is in run.json and .hydra/ already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"step": step, **metrics}
        new = [key for key in row if key not in self._columns]
        try:
            if new or not self._path.exists():
                self._columns += new
                rows = _read(self._path)[1] if self._path.exists() else []
                _write(self._path, self._columns, [*rows, row])
            else:
                with self._path.open("a", newline="", encoding="utf-8") as file:
                    csv.DictWriter(file, self._columns, restval="").writerow(row)
        except OSError as error:
            raise ProjectError(
                f"{self._path}: cannot be written ({error.strerror}); free some space."
            ) from error


def rewind(folder: Path, step: int) -> None:
    """Drop what a run resumed at optimizer step `step` will log again, and a line that a kill has cut.

    Rows count steps from 0, so `step - 1` is the last one done; the validation after it is repeated.
    """
    path = folder / FILE
    if not path.exists():
        return
    columns, rows = _read(path)

    def stays(row: dict[str, Any]) -> bool:
        validated = any(value for key, value in row.items() if key.startswith("val/"))
        return bool(row["step"]) and int(row["step"]) < step - int(validated)

    _write(path, columns, [row for row in rows if stays(row)])


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, each with the values that were logged in it."""
    return [{k: float(v) for k, v in row.items() if v not in ("", None)} for row in _read(folder / FILE)[1]]


def _read(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        complete = [row for row in reader if None not in row and None not in row.values()]
    return columns, complete


def _write(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
