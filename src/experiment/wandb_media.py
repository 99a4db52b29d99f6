"""Owns what W&B gets of a report beyond its numbers: tables, pictures, films, the page, under the report's names.

In: plain values and files, gathered from a report by the caller. Out: the summary and the media of the running W&B run;
where none runs, nothing. The run folder stays the first copy of everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import wandb


class Shown(Protocol):
    """What is to be shown; `src.evaluation.report.media.gather` makes one."""

    @property
    def figures(self) -> Mapping[str, float | str]: ...
    @property
    def tables(self) -> Mapping[str, tuple[list[str], list[list[Any]]]]: ...
    @property
    def pictures(self) -> Mapping[str, Sequence[tuple[Path, str]]]: ...
    @property
    def films(self) -> Mapping[str, Sequence[tuple[Path, str]]]: ...
    @property
    def page(self) -> Path | None: ...


def publish(shown: Shown) -> bool:
    """Send the report to the running W&B run; False where there is none, or where W&B has gone away.

    Figures go to the summary under the names of report.json, everything else to one row of the history: tables under
    `tables/<name>`, pictures and films under their own names, the page as `report`.
    """
    run = wandb.run
    if run is None:
        return False
    # Not above: src.sync sends without the logger, and Lightning takes seconds to load.
    from src.experiment import wandb_logger

    return wandb_logger.attempt(lambda: send(run, shown))


def send(run: Any, shown: Shown) -> None:
    """Send the report to this W&B run."""
    run.summary.update(dict(shown.figures))
    row: dict[str, Any] = {f"tables/{name}": _table(*content) for name, content in shown.tables.items()}
    for name, pictures in shown.pictures.items():
        row[name] = [wandb.Image(str(path), caption=words) for path, words in pictures]
    for name, films in shown.films.items():
        kinds = [wandb.Video(str(path), caption=words) for path, words in films]
        row[name] = kinds[0] if len(kinds) == 1 else kinds
    if shown.page is not None:
        row["report"] = wandb.Html(str(shown.page), inject=False)
    if row:
        with _staged_below(Path(run.dir).parent):
            run.log(row)


@contextmanager
def _staged_below(folder: Path) -> Iterator[None]:
    """Tables wait for their upload in W&B's data folder; it shall be this one and not one in the user's home.

    `wandb sync` looks for them there, so they move and vanish with the run.
    """
    if "WANDB_DATA_DIR" in os.environ:
        yield
        return
    os.environ["WANDB_DATA_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["WANDB_DATA_DIR"]


def _table(columns: list[str], rows: list[list[Any]]) -> wandb.Table:
    # Cells are None, texts or numbers; a column may hold whole and broken numbers, so types are not enforced.
    return wandb.Table(columns=list[str | int](columns), data=rows, allow_mixed_types=True)
