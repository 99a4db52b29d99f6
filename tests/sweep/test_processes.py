"""Real processes: several at once, killed in the middle, behind every launcher."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import optuna
import pytest

from src.sweep.storage import close, open_storage, place_of
from tests.sweep.conftest import ROOT, command, finish, kill_when, start

pytestmark = pytest.mark.slow


def trials(folder: Path, storage: str | None = None, name: str = "task") -> list[optuna.trial.FrozenTrial]:
    opened = open_storage(place_of(storage, folder))
    found = optuna.load_study(study_name=name, storage=opened).get_trials()
    close(opened)
    return found


def log(folder: Path) -> list[list[str]]:
    path = folder / "log.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def assert_whole(found: list[optuna.trial.FrozenTrial], finished: int) -> None:
    """n finished trials, no parameter set twice, nothing left open, what failed was withdrawn."""
    done = [trial for trial in found if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(done) == finished
    assert max(Counter(tuple(sorted(trial.params.items())) for trial in done).values()) == 1
    rest = [trial for trial in found if trial not in done]
    assert all(trial.state.name == "FAIL" and "withdrawn" in trial.user_attrs for trial in rest), rest


def test_a_killed_search_goes_on_with_the_same_trial(tmp_path: Path) -> None:
    """kill -9 in the middle of trial 2: it is taken up with its parameters, its folder and its number."""
    few = ("hydra.sweeper.n_trials=4", "seconds=0.4")
    process = start(tmp_path, *few)
    kill_when(process, lambda: ["start", "trial-0002"] in [line[:2] for line in log(tmp_path)])
    assert [trial.state.name for trial in trials(tmp_path)][-1] == "RUNNING"
    out = finish(start(tmp_path, *few))
    assert "Trial 2 was left behind" in out and "4 of 4 trials finished" in out
    assert_whole(trials(tmp_path), 4)
    starts = [line[1:] for line in log(tmp_path) if line[0] == "start"]
    assert len(starts) == 5 and starts[2] == starts[3], "the same point in the same folder"
    again = finish(start(tmp_path, *few))
    assert "4 of 4 trials done" in again and len(log(tmp_path)) == 9, "nothing was missing, nothing was run"


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_two_processes_on_a_fresh_study_make_n_together(tmp_path: Path, kind: str) -> None:
    storage = {"journal": None, "sqlite": f"sqlite:///{tmp_path / 'study.db'}"}.get(
        kind, os.environ.get("MVLA_TEST_POSTGRES")
    )
    if kind == "postgresql" and storage is None:
        pytest.skip("MVLA_TEST_POSTGRES is not set; give it the URL of an empty database")
    name = f"study-{os.getpid()}-{tmp_path.name}"
    words = [f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_trials=6", "hydra.sweeper.report=null"]
    if storage is not None:
        words.append(f"hydra.sweeper.storage='{storage}'")
    both = [start(tmp_path, *words, "seconds=0.05") for _ in range(2)]
    for process in both:
        finish(process)
    found = trials(tmp_path, storage, name)
    assert_whole(found, 6)
    assert len([line for line in log(tmp_path) if line[0] == "end"]) == 6
    assert len({trial.user_attrs["owner"]["id"] for trial in found}) == 2, "one process did everything"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_run_batches(tmp_path: Path, launcher: str) -> None:
    words = [f"hydra/launcher={launcher}", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    if launcher == "joblib":
        words.append("hydra.launcher.n_jobs=2")
    finish(start(tmp_path, *words, "fail_at=4", "k=choice(1,3)"))
    assert_whole(trials(tmp_path), 3)
    assert all(trial.intermediate_values for trial in trials(tmp_path)), "reports came from the other process"


def test_failed_trials_are_noted_and_too_many_stop_the_search(tmp_path: Path) -> None:
    words = [
        "fail_at=2",
        "hydra/sweeper/sampler=grid",
        "x=choice(1,2)",
        "k=choice(2,3)",
        "hydra.sweeper.n_trials=4",
    ]
    out = finish(start(tmp_path / "some", *words, "hydra.sweeper.max_failure_rate=0.5"))
    assert "2 failed" in out and "k is 2" in out
    states = Counter(trial.state.name for trial in trials(tmp_path / "some"))
    assert states == {"COMPLETE": 2, "FAIL": 2}
    done = subprocess.run(
        command(tmp_path / "none", *words, "hydra.sweeper.max_failure_rate=0"),
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "more than 0% of 4 (the last: k is 2)" in done.stderr


def train(folder: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "src.train", "-m", f"hydra.sweep.dir={folder}", *overrides]


def test_trainings_are_pruned_killed_and_resumed(tmp_path: Path, small_overrides: list[str]) -> None:
    """The real program: trial 1 is killed behind a checkpoint and goes on from it; trial 2 is hopeless and pruned."""
    import json

    words = [
        *(word for word in small_overrides if "max_epochs" not in word),
        "trainer.max_epochs=6", "hydra/sweeper=optuna", "optimizer.lr=interval(1e-6,0.1)", "name=killed",
        "hydra.sweeper.n_trials=3", "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2",
        "hydra.sweeper.pruner.n_min_trials=1", "hydra.sweeper.pruner.n_warmup_steps=0",
        "hydra.sweeper.enqueue=[{optimizer.lr: 0.005},{optimizer.lr: 0.006},{optimizer.lr: 1e-6}]",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        train(tmp_path, *words),
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    kill_when(process, lambda: (tmp_path / "trial-0001" / "checkpoints" / "last.ckpt").exists())
    done = subprocess.run(
        train(tmp_path, *words), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error executing job" not in done.stderr and "Going on from" in done.stdout
    found = trials(tmp_path, name="killed")
    assert [trial.state.name for trial in found] == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert list(found[1].intermediate_values) == [1, 2, 3, 4, 5, 6]
    assert list(found[2].intermediate_values) == [1]
    records = [json.loads((tmp_path / f"trial-{n:04d}" / "run.json").read_text()) for n in range(3)]
    assert [record["state"] for record in records] == ["finished", "finished", "pruned"]
    assert [len(record["starts"]) for record in records] == [1, 2, 1]
    assert found[1].value == records[1]["metrics"]["best/val/loss"]
    csv = (tmp_path / "results.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in csv[1:]] == ["complete", "complete", "pruned"]
