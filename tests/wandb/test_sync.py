"""Sending runs afterwards: once, whole, and one broken run does not stop the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.core.errors import ProjectError
from src.experiment import wandb_sync
from src.experiment.run_record import amend
from src.sync import sync
from tests.wandb.conftest import Log
from tests.wandb.runs import REPORT, note, rows_kept, rows_sent
from tests.wandb.standin import Standin

ROOT = Path(__file__).resolve().parents[2]


def nothing_shown(folder: Path) -> None:
    """A run without a report."""


def start(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.mark.slow
def test_offline_runs_go_once_and_a_broken_one_stops_nobody(
    tmp_path: Path, log: Log, server: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    one = log(tmp_path / "runs" / "a", mode="offline")
    bad = log(tmp_path / "runs" / "b", mode="offline", rows=2)
    two = log(tmp_path / "runs" / "c", mode="offline", rows=4)
    (bad.folder / "run.json").write_text("{ broken")
    pattern = f"{tmp_path}/runs/*"
    assert sync([pattern], dry_run=True, timeout_s=60) == 1
    assert "would go as it is" in " ".join(capsys.readouterr().out.split()) and server.runs() == []
    said = " ".join(start("src.sync", f"runs=[{pattern}]", code=1).stdout.split())
    assert "cannot be read as JSON" in said
    assert {run.id for run in server.runs()} == {one.id, two.id}
    for made in (one, two):
        assert rows_sent(server.run(made.id)) == rows_kept(made.folder)
        assert json.loads((made.folder / "run.json").read_text())["wandb"] == f"lab/lab-project/{made.id}"
    writes = [run.writes for run in server.runs()]
    assert [wandb_sync.push(made.folder, nothing_shown, 60).did for made in (one, two)] == [
        "nothing",
        "nothing",
    ]
    assert [run.writes for run in server.runs()] == writes, "twice is nothing twice"


@pytest.mark.slow
def test_an_evaluation_repeated_later_reaches_wandb(tmp_path: Path, log: Log, server: Standin) -> None:
    made = log(tmp_path / "run", error=ProjectError("evaluation: failed."))
    assert (
        server.run(made.id).state == "failed"
        and "closed_loop/full1/success" not in server.run(made.id).summary
    )
    (made.folder / "report.json").write_text(json.dumps(REPORT))
    amend(made.folder, state="finished", error=None, metrics=REPORT["metrics"])
    assert wandb_sync.push(made.folder, nothing_shown, 60).did == "completed"
    run = server.run(made.id)
    assert run.state == "finished" and run.summary["closed_loop/full1/success"] == 0.5
    assert rows_sent(run) == rows_kept(made.folder), "figures changed, curves did not"


@pytest.mark.slow
def test_a_moved_run_and_one_without_a_note_are_completed_from_their_files(
    tmp_path: Path, log: Log, server: Standin
) -> None:
    made = log(tmp_path / "here", mode="offline", rows=3)
    moved = made.folder.rename(tmp_path / "there")
    assert wandb_sync.push(moved, nothing_shown, 60).did == "completed"
    assert rows_sent(server.run(made.id)) == rows_kept(moved), "it keeps its id"
    older = log(tmp_path / "older", mode="offline", rows=3)
    (older.folder / "wandb" / "sync.json").unlink()
    assert wandb_sync.push(older.folder, nothing_shown, 60).did == "completed"
    assert rows_sent(server.run(older.id)) == rows_kept(older.folder)


@pytest.mark.slow
def test_killed_and_resumed_is_one_run_without_a_row_twice(tmp_path: Path, log: Log, server: Standin) -> None:
    from src.experiment.csv_logger import rewind

    start("tests.wandb.runs", str(tmp_path), "killed")
    for mode in ("online", "offline"):
        folder = tmp_path / mode
        before = note(folder)
        assert not before["ended"] and len(rows_kept(folder)) == 12
        rewind(folder, 8)  # its last checkpoint
        made = log(folder, start=7, rows=16, mode=mode, resumed=True)
        assert made.id == before["init"]["id"] and len(note(folder)["segments"]) == 2
        if mode == "online":
            assert rows_sent(server.run()) == rows_kept(folder)
        assert wandb_sync.push(folder, nothing_shown, 60).did == "completed"
        assert rows_sent(server.run(made.id)) == rows_kept(folder)
        assert server.run(made.id).state == "finished"


@pytest.mark.slow
def test_a_server_that_fails_is_a_failed_run_and_the_next_try_heals_it(
    tmp_path: Path, log: Log, server: Standin
) -> None:
    made = log(tmp_path / "run", mode="offline", rows=3)
    server.mode = "error"
    outcome = wandb_sync.push(made.folder, nothing_shown, 1)
    assert outcome.did == "failed" and outcome.words.startswith("wandb lab-project: no answer to use"), (
        outcome
    )
    assert note(made.folder)["pushed"] is None
    server.mode = "ok"
    assert wandb_sync.push(made.folder, nothing_shown, 60).did in ("sent", "completed")
    assert rows_sent(server.run(made.id)) == rows_kept(made.folder)


def test_who_is_not_logged_in_is_told_how(
    tmp_path: Path, server: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    segment = run / "wandb" / "offline-run-20260101_000000-abc"
    segment.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    (segment / "run-abc.wandb").write_bytes(b"")
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ProjectError, match=r"nobody is logged in, so 1 run.*`wandb login`"):
        sync([str(tmp_path / "*")], dry_run=False, timeout_s=5)


def test_only_runs_that_used_wandb_are_found(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "run.json").write_text("{}")
    assert wandb_sync.find([str(tmp_path / "*")]) == []
    with pytest.raises(ProjectError, match="runs: found no folder"):
        wandb_sync.find([str(tmp_path / "absent")])
