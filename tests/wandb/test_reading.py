"""Reading back: from the server a run is what its folder says, and so is the file of an offline run."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from src.comparison.run import from_folder
from src.comparison.wandb_source import load
from src.core.errors import ProjectError
from src.experiment import wandb_facts
from tests.wandb.conftest import Log
from tests.wandb.runs import REPORT, rows_kept
from tests.wandb.standin import Standin

pytestmark = pytest.mark.slow


def test_the_same_run_from_wandb_and_from_its_folder(tmp_path: Path, log: Log, server: Standin) -> None:
    finished = log(tmp_path / "a", report=REPORT)
    failed = log(tmp_path / "b", rows=2, error=ProjectError("data.root: gone."))
    log(tmp_path / "c", rows=2, group="another table")
    found = {run.id: run for run in load("lab-project", None, "table")}
    assert len(found) == 2
    for made in (finished, failed):
        there, here = found[f"lab/lab-project/{made.id}"], from_folder(made.folder)
        for field in dataclasses.fields(here):
            if field.name not in ("id", "wandb"):
                assert getattr(there, field.name) == getattr(here, field.name), field.name
        assert there.wandb == there.id
    assert found[f"lab/lab-project/{finished.id}"].intervals["closed_loop/full1/success"].high == 0.9
    server.run(finished.id).state = "crashed"
    kept = server.run(finished.id).config[wandb_facts.RECORD]
    kept["value"] = json.dumps({**json.loads(kept["value"]), "state": "running"})
    assert {run.state for run in load("lab-project", None, "table")} == {"killed", "failed"}


def test_an_absent_project_or_group_is_a_sentence(
    tmp_path: Path, log: Log, server: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path / "a", rows=2)
    with pytest.raises(
        ProjectError, match=r"wandb lab/renamed: no answer to use \(.*renamed\).*another name"
    ):
        load("renamed", "lab", "table")
    with pytest.raises(ProjectError, match="found no run of this project's logger in the group 'none'"):
        load("lab-project", None, "none")
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ProjectError, match="nobody is logged in"):
        load("lab-project", None, "table")


def test_the_offline_file_holds_what_the_folder_holds(tmp_path: Path, log: Log, server: Standin) -> None:
    made = log(tmp_path / "run", mode="offline", report=REPORT)
    assert server.operations == [], "offline is offline"
    segment = next((made.folder / "wandb").glob("offline-run-*"))

    def inspected(*options: str) -> str:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, "--json", str(segment)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, check=True).stdout

    whole = json.loads(inspected("--summary"))
    summary = {key: value for key, value in whole["summary"].items() if key in made.record["metrics"]}
    assert summary == made.record["metrics"]
    assert whole["config"]["optimizer"]["lr"] == 1e-05
    records = [json.loads(line) for line in inspected().splitlines()]
    rows = [one["history"]["item"] for one in records if one["type"] == "history"]
    kept = rows_kept(made.folder)
    assert [row["trainer/global_step"] for row in rows] == [row["step"] for row in kept]
    for key in ("train/loss", "val/loss", "epoch"):
        assert [row.get(key) for row in rows] == [row.get(key) for row in kept], key
    outside = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "logs" not in path.parts]
    assert outside == [], "nothing in the home folder"
