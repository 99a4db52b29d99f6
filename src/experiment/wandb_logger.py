"""Owns the Weights & Biases side of a run: never a prompt, never a surprise, never the only copy, never its end.

In: the run record and conf/logger/wandb.yaml. Out: a W&B run whose files lie in <run>/wandb. Offline unless the user
is logged in and the server answers. Whatever happens to the server, the network or W&B's own process, the training
goes on: W&B is closed with one sentence, and `python -m src.sync` sends the run later from its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from src.core.errors import ProjectError
from src.experiment import csv_logger, wandb_facts
from src.experiment.run_record import FILE as RECORD
from src.experiment.run_record import RunRecord, ending
from src.experiment.wandb_model import log_model as send_model
from src.experiment.wandb_server import Mode, abandon, choose_mode, first_line

_active: RunWandbLogger | None = None
"""The logger whose W&B run is open; there is one at a time in a process, as W&B itself has it."""


class RunWandbLogger(WandbLogger):
    """W&B with the run's folder, name and a stable id, so that a resumed run goes on in the same W&B run."""

    def __init__(
        self,
        record: RunRecord,
        project: str,
        entity: str | None,
        group: str | None,
        tags: list[str],
        mode: Mode,
        log_model: bool = False,
        log_model_limit_mb: float = 200.0,
        patience_s: float = 60.0,
    ) -> None:
        """
        Args:
            record: of the run.
            project: W&B project.
            entity: user or team; null: the default of the account.
            group: arms of one comparison share it.
            tags: labels; experiment, arm and base model are added.
            mode: `online`, `offline`, or `auto`: online when logged in and the server is reachable.
            log_model: send the adapter (without one the best checkpoint) as an artifact of type `model`.
            log_model_limit_mb: a larger model stays in the run folder, and a sentence says so.
            patience_s: longest wait for the server at the start and at the end of a run, in s.

        Raises:
            ProjectError: `online` without a login.
        """
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run_record, self._folder, self._patience_s = record, record.folder, patience_s
        self._explicit = mode == "online"
        self._resumed = len(record.fields["starts"]) > 1
        chosen = choose_mode(mode)
        node = {"project": project, "entity": entity, "group": group, "tags": tags}
        init = wandb_facts.identity(record.folder, record.fields, node)
        before = wandb_facts.read_note(record.folder) if self._resumed else None
        model = {"limit_mb": log_model_limit_mb} if log_model else None
        if before is not None:  # also where the folder was moved: its run keeps its name
            self._note = before
            self._note.init |= {"project": project, "entity": entity, "group": group, "tags": init["tags"]}
            self._note.ended, self._note.written, self._note.pushed = False, None, None
            self._note.model = model
        else:
            self._note = wandb_facts.Note(init, str(record.folder.resolve()), model=model)
        init = self._note.init
        super().__init__(
            name=init["name"], save_dir=record.folder, project=project, id=init["id"], offline=chosen == "offline",
            log_model=False,
        )  # fmt: skip
        self._mode: Literal["online", "offline"] = chosen
        self._lost = False
        kept = self._resumed and (record.folder / csv_logger.FILE).exists()
        self._before = csv_logger.read_metrics(record.folder) if kept else []
        self._rows = len(self._before)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `wandb.Run`, opened at the first use."""
        if self._experiment is None:
            self._experiment = self._open()
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """The resolved config and the record are sent when the run is opened."""
        _ = self.experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """One row of W&B's history per row of metrics.csv, with the same number, so that a resumed run can see which
        ones W&B has already; the x-axis is `trainer/global_step`."""
        run = self.experiment
        number, self._rows = self._rows, self._rows + 1
        if self._lost or number < run.starting_step:
            return
        row = wandb_facts.row(metrics, step)
        self.guarded(lambda: run.log(row, step=number, commit=True))

    def finalize(self, status: str) -> None:
        """Lightning's end of the training; the evaluation still follows, see `close`."""

    def guarded(self, action: Callable[[], object]) -> bool:
        """Do something with W&B; where it fails, the run goes on without W&B. Returns whether it worked."""
        if self._lost:
            return False
        try:
            action()
        except Exception as error:
            self._lose(error)
        return not self._lost

    def close(self, exit_code: int, error: BaseException | None) -> None:
        """Send the final figures and the model, and close the W&B run, waiting at most `patience_s` for the server."""
        global _active
        _active = None
        run = self._experiment
        if run is None or self._lost:
            return
        fields = final_fields(self._run_record, error)
        self.guarded(lambda: _tell(run, fields, self._folder))
        if self._note.model is not None and fields["state"] == "finished":
            limit_mb = float(self._note.model["limit_mb"])
            self.guarded(lambda: _say(send_model(run, self._folder, fields, limit_mb)))
        if not self.guarded(lambda: run.finish(exit_code=exit_code)):
            return
        self._note.ended, self._note.written = True, wandb_facts.fingerprint(fields)
        if self._mode == "online" and self._note.is_whole(self._folder):
            self._note.pushed = self._note.written
        self._note.write(self._folder)

    # ------------------------------------------------------------ opening and losing

    def _open(self) -> Any:
        global _active
        if _active is not None or wandb.run is not None:  # left open: it would swallow this run
            abandon()
        try:
            run = self._init(self._mode)
        except Exception as error:
            if self._mode == "offline":
                raise ProjectError(
                    f"logger.wandb: W&B cannot be started ({first_line(error)}); use logger=csv, or look into "
                    f"{self._folder}/wandb."
                ) from error
            abandon()
            if self._explicit:
                raise ProjectError(
                    f"logger.wandb.mode: found online, but W&B does not start ({first_line(error)}); use mode=auto "
                    "to go on offline, or log in anew with `wandb login --relogin`."
                ) from error
            self._mode = "offline"
            run = self._init("offline")
            _warn(
                f"the server cannot be used ({first_line(error)}), the run is kept offline; {self._later()}"
            )
        self._note.segments.append(Path(run.settings.sync_dir).name)
        self._note.write(self._folder)
        if self._mode == "online":
            self._run_record.fields["wandb"] = run.path
        _active = self
        return run

    def _init(self, mode: Literal["online", "offline"]) -> Any:
        settings = wandb.Settings(
            silent=True,
            console="off",  # capturing the console would break the live progress line
            mode=mode,
            init_timeout=self._patience_s,
            finish_timeout=self._patience_s if mode == "online" else 0.0,
            finish_timeout_raises=True,
        )
        # A run begun anew in the same folder replaces what W&B has of it; a resumed one goes on.
        resume: Literal["allow"] | None = "allow" if mode == "online" and self._resumed else None
        run = wandb.init(
            **self._note.init, dir=str(self._folder), resume=resume, settings=settings,
            config=wandb_facts.config(_as_written(self._run_record), self._folder),
        )  # fmt: skip
        wandb_facts.define_axis(run)
        if mode == "online":  # what was logged before the run was killed and had not left this computer
            wandb_facts.catch_up(run, self._before)
        return run

    def _lose(self, error: BaseException) -> None:
        """W&B is gone: say it once, remember it, clean up so that the next run of this process gets a new W&B."""
        global _active
        self._lost, _active = True, None
        late = isinstance(error, TimeoutError)
        why = (
            f"the server did not take everything within {self._patience_s:g} s" if late else first_line(error)
        )
        self._note.lost = why
        with contextlib.suppress(ProjectError):
            self._note.write(self._folder)
        abandon()
        _warn(f"connection lost ({why}), the run goes on without W&B; {self._later()}")

    def _later(self) -> str:
        return f"metrics.csv has everything, send it later with `python -m src.sync 'runs=[{self._folder}]'`."


# ---------------------------------------------------------------- what the stages of a run call


def summarise(metrics: dict[str, Any]) -> None:
    """Put final figures into the summary of the running W&B run, if there is one."""
    run = wandb.run
    if run is not None:
        attempt(lambda: run.summary.update(metrics))


def attempt(action: Callable[[], object]) -> bool:
    """Do something with the open W&B run without risking the training; returns whether it worked."""
    if _active is not None:
        return _active.guarded(action)
    action()
    return True


def finish(exit_code: int) -> None:
    """Close the W&B run; otherwise the next run of this process would silently go on in it.

    Called where the run ends, however it ends: the error on its way, if any, tells the state.
    """
    if _active is not None:
        _active.close(exit_code, sys.exc_info()[1])
    elif wandb.run is not None:
        wandb.finish(exit_code=exit_code)


def final_fields(record: RunRecord, error: BaseException | None) -> dict[str, Any]:
    """The record as it will stand in run.json once the run has ended with `error`."""
    state, text = ending(error)
    return {**_as_written(record), "state": state, "error": text}


def _tell(run: Any, fields: Mapping[str, Any], folder: Path) -> None:
    run.config.update(wandb_facts.config(fields, folder), allow_val_change=True)
    run.summary.update(wandb_facts.summary(fields))


def _as_written(record: RunRecord) -> dict[str, Any]:
    """The record as a reader of run.json gets it: plain types, and null for a figure that is not finite."""
    record.write()
    fields: dict[str, Any] = json.loads((record.folder / RECORD).read_text(encoding="utf-8"))
    return fields


def _say(sentence: str | None) -> None:
    if sentence is not None:
        _warn(sentence)


def _warn(sentence: str) -> None:
    print(f"W&B: {sentence}", file=sys.stderr, flush=True)
