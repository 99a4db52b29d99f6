"""Runs as a training leaves them, made in a blink: a record, metrics.csv and W&B, without a model.

As a program it is trainings in a process of their own: `python -m tests.wandb.runs -m +name=a,b +login=true,false …`
runs them one after the other as Hydra's launcher does, `… killed` kills them in the middle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra

from src.core.errors import ProjectError

EVERY = 4
"""Steps per epoch: after each of them comes a validation."""
NODE = {"project": "lab-project", "entity": None, "group": "table", "tags": ["mine"]}


@dataclass(frozen=True)
class LoggedRun:
    folder: Path
    id: str
    record: dict[str, Any]


def config(**more: Any) -> Any:
    """A resolved config with what W&B likes to drop: nulls, empty mappings, whole numbers written as broken ones."""
    from omegaconf import OmegaConf

    return OmegaConf.create({
        "name": "table", "seed": 3, "arm": "text", "trial": None, "resume": None, "callbacks": {},
        "model": {"backbone": {"checkpoint": "assets/kosmos2_tiny"}, "lora": {"dropout": 0.0, "on": None}}, "x": "",
        "optimizer": {"lr": 1e-05, "betas": [0.9, 1.0]}, "logger": {"wandb": dict(NODE)}, **more,
    })  # fmt: skip


def logged(
    folder: Path, rows: int = 12, start: int = 0, mode: str = "auto", resumed: bool = False,
    at: dict[int, Callable[[], object]] | None = None, error: BaseException | None = None,
    report: dict[str, Any] | None = None, **options: Any,
) -> LoggedRun:  # fmt: skip
    """A run that logs `rows` steps from `start` on and ends, with `error` where one is given.

    Args:
        at: step → what happens before it is logged.
        report: metrics and the rest of a report.json that the evaluation after the training leaves.
        options: of RunWandbLogger.
    """
    from src.experiment.csv_logger import CsvLogger
    from src.experiment.run_record import RunRecord, cost
    from src.experiment.stages import loggers_closed
    from src.experiment.wandb_logger import RunWandbLogger, summarise

    options = {"patience_s": 20.0, **NODE, **options}
    try:
        with RunRecord(folder, config(), resumed) as record, loggers_closed(record):
            record.note(
                "data", data_hash="d1", split_hash="s1", instruction={"hash": "i1"}, splits={"train": {}}
            )
            record.note("model", parameters=10, trainable=2, base_model={"id": "kosmos", "fingerprint": "f"})
            loggers = [CsvLogger(record), RunWandbLogger(record, mode=mode, **options)]  # type: ignore[arg-type]
            for step in range(start, rows):
                (at or {}).get(step, lambda: None)()
                for one in loggers:
                    one.log_metrics({"train/loss": 1 / (step + 1), "epoch": step // EVERY}, step)
                    if step % EVERY == EVERY - 1:
                        one.log_metrics({"val/loss": 2 / (step + 1), "epoch": step // EVERY}, step)
            if error is not None:
                raise error
            figures = dict((report or {}).get("metrics", {"best/val/loss": 0.25}))
            if report is not None:
                (folder / "report.json").write_text(json.dumps(report))
            record.note("metrics", **figures)
            record.note("verdict", listens="yes", not_beaten=[], line="listens: yes")
            record.note("evaluation", suites=[{"suite": "full1", "episodes": 4}], language=None)
            record.note("cost", **cost(record.fields, None))
            summarise(figures)
    except BaseException as caught:
        if caught is not error:
            raise
    record_there = json.loads((folder / "run.json").read_text())
    return LoggedRun(folder, note(folder)["init"]["id"], record_there)


REPORT: dict[str, Any] = {
    "metrics": {"closed_loop/full1/success": 0.5},
    "closed_loop": {
        "full1": {
            "success": {
                "value": 0.5,
                "low": 0.1,
                "high": 0.9,
                "n": 4,
                "interval": "wilson",
                "extra": "dropped",
            },
            "films": ["best.mp4"],
        }
    },
}
"""What an evaluation leaves, as far as W&B keeps it."""


def rows_sent(run: Any) -> list[dict[str, float]]:
    """History of a run as the server has it, under the names of metrics.csv."""
    assert [row["_step"] for row in run.history] == list(range(len(run.history))), (
        "no row twice, none missing"
    )
    own = ("_step", "_timestamp", "_runtime", "trainer/global_step")
    return [
        {"step": row["trainer/global_step"], **{k: v for k, v in row.items() if k not in own}}
        for row in run.history
    ]


def rows_kept(folder: Path) -> list[dict[str, float]]:
    """metrics.csv, each row with the values that were logged in it."""
    from src.experiment.csv_logger import read_metrics

    return read_metrics(folder)


def note(folder: Path) -> dict[str, Any]:
    """What the run folder says of W&B."""
    found: dict[str, Any] = json.loads((folder / "wandb" / "sync.json").read_text())
    return found


def killed(folder: Path, modes: Sequence[str], rows: int) -> None:
    """For each mode a process that is killed before it logs its last row, into `<folder>/<mode>`."""
    import src.experiment.wandb_logger  # once for all of them  # noqa: F401

    for mode in modes:
        child = os.fork()
        if child == 0:
            logged(
                folder / mode, rows, mode=mode, at={rows - 1: lambda: os.kill(os.getpid(), signal.SIGKILL)}
            )
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def job(cfg: Any) -> None:
    """One run of a sweep, in mode auto; who is not logged in also tries mode online."""
    key = os.environ["WANDB_API_KEY"]
    folder = Path(cfg.folder) / f"{cfg.name},login={cfg.login}"
    if not cfg.login:
        del os.environ["WANDB_API_KEY"]
    try:
        logged(folder, rows=cfg.rows)
        if not cfg.login:
            logged(folder.with_name(f"{cfg.name} by word"), rows=1, mode="online")
    except ProjectError as error:
        print(error)
    finally:
        os.environ["WANDB_API_KEY"] = key


def main() -> None:
    if sys.argv[-1] == "killed":
        killed(Path(sys.argv[1]), ("online", "offline"), 11)
    else:
        hydra.main(version_base="1.3", config_path=None)(job)()


if __name__ == "__main__":
    main()
