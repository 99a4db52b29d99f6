"""Owns sending runs to W&B afterwards: whatever a run folder holds and the server has not got.

In: run folders with a `wandb` folder. Out: the same runs on the server, and in each folder a note of what arrived, so
that nothing is sent twice. A run whose one local segment is whole, and of which the server has nothing, goes as it is,
with `wandb sync`. Any other (killed, resumed, W&B lost on the way, folder moved, evaluated again later) is completed
from metrics.csv, report and checkpoints, which are whole in any case: its W&B run is resumed and gets what it lacks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any, Literal

from src.core.errors import ProjectError
from src.experiment import wandb_facts, wandb_server
from src.experiment.run_record import FILE as RECORD
from src.experiment.run_record import amend, is_alive, read_record
from src.experiment.wandb_facts import Note
from src.experiment.wandb_media import Shown

Did = Literal["sent", "completed", "nothing", "running", "failed"]
TRY_AGAIN = "try again when the server is well"
Gather = Callable[[Path], "Shown | None"]
"""Folder of a run → what W&B shows of its report; None where it has none."""


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    folder: Path
    did: Did
    words: str


def find(patterns: Sequence[str]) -> list[Path]:
    """Run folders that used W&B, sorted.

    Args:
        patterns: of run folders, e.g. `outputs/*/*`; a folder above several runs is searched too.

    Raises:
        ProjectError: a pattern matches nothing at all.
    """
    found: set[Path] = set()
    for pattern in patterns:
        places = [Path(place) for place in glob(os.path.expanduser(pattern))]
        if not places and not glob_like(pattern):
            raise ProjectError(f"runs: found no folder {pattern}, expected one of a run; correct it.")
        for place in places:
            tops = (
                [place] if (place / RECORD).is_file() else [path.parent for path in place.glob(f"*/{RECORD}")]
            )
            found |= {top for top in tops if any(_segments(top))}
    return sorted(found)


def glob_like(pattern: str) -> bool:
    """May this pattern match nothing? One with a wildcard may."""
    return any(sign in pattern for sign in "*?[")


def push(folder: Path, gather: Gather, timeout_s: float, dry_run: bool = False) -> Outcome:
    """Send what the server has not got of one run; one that fails is an outcome, not an error.

    Args:
        folder: of the run.
        gather: what to show of its report.
        timeout_s: longest time that one upload may take, in s.
        dry_run: say what would be done, and do nothing.
    """
    try:
        return _push(folder, gather, timeout_s, dry_run)
    except ProjectError as error:
        return Outcome(folder, "failed", str(error))
    except Exception as error:
        return Outcome(folder, "failed", f"{type(error).__name__}: {str(error).strip() or 'no reason given'}")


def _push(folder: Path, gather: Gather, timeout_s: float, dry_run: bool) -> Outcome:
    if is_alive(folder):
        return Outcome(folder, "running", "it is still being written")
    fields = read_record(folder)
    note = wandb_facts.read_note(folder) or _note_of_older(folder, fields)
    now = wandb_facts.fingerprint(fields)
    if note.pushed == now:
        return Outcome(folder, "nothing", "the server has everything")
    as_it_is = note.pushed is None and note.is_whole(folder)
    if dry_run:
        words = (
            "would go as it is" if as_it_is else f"would be completed from its files: {_why(note, folder)}"
        )
        return Outcome(folder, "sent" if as_it_is else "completed", words)
    path = _path(note, timeout_s)
    did: Did = "sent" if as_it_is and not _is_there(path, timeout_s) else "completed"
    if did == "sent":
        _wandb_sync(folder / "wandb" / note.segments[0], timeout_s)
    if did == "completed" or note.written != now:
        _complete(folder, note, fields, gather, timeout_s)
    note.pushed = now
    note.write(folder)
    amend(folder, wandb=path)
    return Outcome(folder, did, path)


def _why(note: Note, folder: Path) -> str:
    if note.pushed is not None:
        return "its figures changed"
    if note.lost is not None:
        return note.lost
    if len(note.segments) > 1:
        return f"{len(note.segments)} starts"
    return "it was killed" if not note.ended else "its folder was moved"


def _segments(folder: Path) -> Iterator[Path]:
    """Local W&B folders of a run, whichever program wrote them."""
    yield from sorted(path.parent for path in (folder / "wandb").glob("*run-*/run-*.wandb"))


def _note_of_older(folder: Path, fields: Mapping[str, Any]) -> Note:
    """The note of a run that was made before there were notes: nothing is known of it, so it is sent anew."""
    node = ((fields.get("config") or {}).get("logger") or {}).get("wandb")
    if node is None:
        raise ProjectError(
            f"{folder}/run.json: found no settings of W&B in its config, expected logger.wandb; it was made by an "
            "older version, send it with `wandb sync` by hand."
        )
    init = wandb_facts.identity(folder, fields, node)
    names = [path.name for path in _segments(folder)]
    return Note(init, str(folder.resolve()), segments=names)


# ---------------------------------------------------------------- the ways to the server


def _wandb_sync(segment: Path, timeout_s: float) -> None:
    """Send a local segment with W&B's own command, which marks it with a `.synced` file once everything arrived."""
    marks = list(segment.glob("*.wandb.synced"))
    for mark in marks:  # ours is the note; W&B's would make it skip
        mark.unlink()
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(segment)]
    environment = {
        key: value for key, value in os.environ.items() if key not in ("WANDB_SERVICE", "WANDB_MODE")
    }
    environment.pop("WANDB_SILENT", None)
    environment["WANDB_DIR"] = str(segment.parent.parent)  # its own logs stay in the run
    # Into a file: W&B's own process holds the output open, and waiting for its end would outlast the time limit.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:
        try:
            done = subprocess.run(
                command, env=environment, stdout=out, stderr=out, timeout=timeout_s, stdin=subprocess.DEVNULL
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ProjectError(
                f"{segment}: not sent within {timeout_s:g} s; try again, or give it longer with timeout_s=<seconds>."
            ) from None
        out.seek(0)
        said = [line.strip() for line in out if line.strip()]
    if done.returncode != 0 or not list(segment.glob("*.wandb.synced")):
        raise ProjectError(f"{segment}: `wandb sync` failed ({' '.join(said[-2:]) or 'it gave no reason'}).")


def _complete(folder: Path, note: Note, fields: Mapping[str, Any], gather: Gather, timeout_s: float) -> None:
    """Resume the run on the server, or begin it there, and send the rows that it lacks, figures, report and model."""
    import wandb

    from src.experiment import csv_logger  # not above: it loads Lightning, which takes seconds
    from src.experiment.wandb_media import send
    from src.experiment.wandb_model import log_model

    shown = gather(folder)
    settings = wandb.Settings(
        silent=True, console="off", mode="online", x_disable_stats=True, init_timeout=timeout_s,
        finish_timeout=timeout_s, finish_timeout_raises=True,
    )  # fmt: skip
    scratch = folder / "wandb" / "completed"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        config = wandb_facts.config(fields, folder)
        run = wandb.init(**note.init, dir=str(scratch), resume="allow", settings=settings)
        run.config.update(config, allow_val_change=True)
        wandb_facts.define_axis(run)
        wandb_facts.catch_up(
            run, csv_logger.read_metrics(folder) if (folder / csv_logger.FILE).exists() else []
        )
        run.summary.update(wandb_facts.summary(fields))
        if shown is not None:
            send(run, shown)
        if note.model is not None:
            log_model(run, folder, fields, note.model["limit_mb"])
        run.finish(exit_code=0 if fields["state"] in ("finished", "pruned") else 1)
    except BaseException:
        wandb_server.abandon()
        raise
    shutil.rmtree(scratch)
    for segment in note.segments:  # so that W&B's own command does not send the parts over the whole
        for file in (folder / "wandb" / segment).glob("*.wandb"):
            file.with_suffix(".wandb.synced").touch()


def _path(note: Note, timeout_s: float) -> str:
    """Where the run is on the server: `<entity>/<project>/<id>`."""
    entity, project = note.init["entity"], note.init["project"]
    if entity is None:
        with wandb_server.asking(f"wandb {project}", TRY_AGAIN, min(timeout_s, wandb_server.ANSWER_S)) as api:
            entity = api.default_entity
    return f"{entity}/{project}/{note.init['id']}"


def _is_there(path: str, timeout_s: float) -> bool:
    """Does the server have this run already, perhaps in part?"""
    place, _, run_id = path.rpartition("/")
    with wandb_server.asking(f"wandb {place}", TRY_AGAIN, min(timeout_s, wandb_server.ANSWER_S)) as api:
        try:
            return any(True for _ in api.runs(place, filters={"name": run_id}))
        except ValueError:  # no such project
            return False
