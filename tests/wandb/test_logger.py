"""What W&B gets of a run, and that nothing that happens to W&B happens to the run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import psutil
import pytest

from src.core.errors import ProjectError
from src.experiment import wandb_facts, wandb_logger
from src.experiment.signals import Interrupted, Pruned
from src.experiment.wandb_sync import push
from tests.wandb.conftest import Log
from tests.wandb.runs import NODE, REPORT, note, rows_kept, rows_sent
from tests.wandb.standin import Standin

pytestmark = pytest.mark.slow


def nothing_shown(folder: Path) -> None:
    """A run without a report."""


def test_a_run_arrives_whole_under_its_own_names(tmp_path: Path, log: Log, server: Standin) -> None:
    made = log(tmp_path / "text,seed=3", report=REPORT)
    run = server.run(made.id)
    assert rows_sent(run) == rows_kept(made.folder)
    assert len(run.history) == 15, "12 steps and 3 validations"
    assert (run.project, run.group, run.job_type, run.name) == (
        "lab-project",
        "table",
        "train",
        "text,seed=3",
    )
    assert run.tags == ["mine", "text", "kosmos2_tiny"] and run.state == "finished"
    config = {key: value["value"] for key, value in run.config.items()}
    assert config["optimizer"] == {"lr": 1e-05, "betas": [0.9, 1.0]} and config["seed"] == 3
    assert config["record"]["config_hash"] == made.record["config_hash"]
    assert config["record"]["data_hash"] == "d1" and config["record"]["command"] == made.record["command"]
    assert run.summary["closed_loop/full1/success"] == 0.5
    assert run.summary["cost/trainable_parameters"] == 2 and run.summary["verdict/listens"] == "yes"
    assert made.record["wandb"] == f"lab/lab-project/{made.id}"


@pytest.mark.parametrize("how", ["hang", "refuse", "killed"])
def test_the_run_goes_on_without_wandb_and_is_sent_later(
    how: str, tmp_path: Path, log: Log, server: Standin, capfd: pytest.CaptureFixture[str]
) -> None:
    def break_it() -> None:
        if how != "killed":
            server.mode = how  # type: ignore[assignment]
            return
        for child in psutil.Process().children(recursive=True):
            if "wandb-core" in child.name():
                child.kill()
                psutil.wait_procs([child])

    made = log(tmp_path / "run", at={5: break_it}, patience_s=1.0)
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and re.match(r"W&B: .*python -m src\.sync", said[0]), said
    assert "Traceback" not in said[0]
    assert made.record["state"] == "finished"
    assert len(rows_kept(made.folder)) == 15 and note(made.folder)["pushed"] is None
    server.mode = "ok"
    after = log(tmp_path / "after", rows=4)
    assert len(server.run(after.id).history) == 5, "the next run of this process has a W&B again"
    outcome = push(made.folder, nothing_shown, 60)
    assert outcome.did == "completed", outcome
    run = server.run(made.id)
    assert rows_sent(run) == rows_kept(made.folder) and run.state == "finished"
    assert run.summary["best/val/loss"] == 0.25
    assert push(made.folder, nothing_shown, 60).did == "nothing"


def test_a_server_that_fails_at_the_start_means_offline(
    tmp_path: Path, log: Log, server: Standin, capfd: pytest.CaptureFixture[str]
) -> None:
    server.mode = "hang"
    made = log(tmp_path / "run", patience_s=1.0)
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "kept offline" in said[0], said
    assert note(made.folder)["segments"][0].startswith("offline-run-") and note(made.folder)["ended"]
    server.mode = "ok"
    assert push(made.folder, nothing_shown, 60).did == "sent"
    assert rows_sent(server.run(made.id)) == rows_kept(made.folder)


def test_online_by_word_is_not_silently_offline(
    tmp_path: Path, log: Log, server: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mode = "error"
    with pytest.raises(ProjectError, match=r"logger\.wandb\.mode: found online, but W&B does not start"):
        log(tmp_path / "one", mode="online", patience_s=1.0)
    server.mode = "ok"
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(ProjectError, match=r"logger\.wandb\.mode: found online, but nobody is logged in"):
        log(tmp_path / "two", mode="online")
    with pytest.raises(ProjectError, match="WANDB_MODE: found online, but nobody"):
        log(tmp_path / "three")
    assert server.runs() == []


@pytest.mark.parametrize(
    ("error", "state", "there"),
    [(Pruned("seen enough"), "pruned", "failed"), (Interrupted(15), "interrupted", "failed")],
    ids=["pruned", "interrupted"],
)
def test_how_a_run_ended_stands_in_wandb_as_in_run_json(
    error: BaseException, state: str, there: str, tmp_path: Path, log: Log, server: Standin
) -> None:
    made = log(tmp_path / "run", error=error)
    run = server.run(made.id)
    record = json.loads(run.config[wandb_facts.RECORD]["value"])
    assert (record["state"], record["error"]) == (made.record["state"], made.record["error"])
    assert record["state"] == run.summary["state"] == state and run.state == there


def test_the_model_is_an_artifact(
    tmp_path: Path, log: Log, server: Standin, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(folder: Path) -> None:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "best.safetensors").write_bytes(b"w" * 3000)

    one, two = tmp_path / "one", tmp_path / "two"
    made = log(one, rows=2, at={1: lambda: train(one)}, log_model=True)
    (found,) = server.artifacts
    assert (found.type, found.name, found.state) == ("model", f"model-{made.id}", "COMMITTED")
    assert found.files == {"best.safetensors": b"w" * 3000} and "best" in found.aliases
    assert found.metadata["kind"] == "checkpoint" and found.metadata["base_model"]["fingerprint"] == "f"
    assert found.metadata["config_hash"] == made.record["config_hash"]

    def adapt(folder: Path) -> None:
        train(folder)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"a" * 500)

    offline = log(two, rows=2, at={1: lambda: adapt(two)}, log_model=True, mode="offline")
    assert push(offline.folder, nothing_shown, 60).did == "sent"
    assert server.artifacts[1].files == {"adapter_model.safetensors": b"a" * 500}, (
        "the adapter where there is one"
    )
    assert capfd.readouterr().err == ""
    big = tmp_path / "big"
    log(big, rows=2, at={1: lambda: train(big)}, log_model=True, log_model_limit_mb=0.001)
    assert "more than logger.wandb.log_model_limit_mb=0.001" in capfd.readouterr().err
    assert len(server.artifacts) == 2


def test_a_trial_is_no_training_like_the_others(tmp_path: Path) -> None:
    fields = {"config": {"trial": {"_target_": "x"}, "seed": 0}, "experiment": "lora", "arm": None}
    assert wandb_facts.identity(tmp_path, fields, NODE)["job_type"] == "trial"
    assert wandb_facts.identity(tmp_path, {**fields, "config": {"trial": None}}, NODE)["job_type"] == "train"
    assert wandb_facts.identity(tmp_path, fields, NODE)["tags"] == ["mine", "lora"]
    assert os.fspath(tmp_path) not in str(wandb_facts.identity(tmp_path, fields, NODE)), (
        "a path names a computer"
    )


def test_without_a_run_nothing_is_closed() -> None:
    wandb_logger.finish(0)
    wandb_logger.summarise({"a": 1.0})
