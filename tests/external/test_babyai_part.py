"""The part in an evaluation: real data, a real policy, the predictor of a robot; the whole way in a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("minigrid", reason="install it with pip install -e '.[external]'")

from src.core.config import build
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation.bench import Bench
from src.evaluation.statistics import Estimate
from src.experiment.checkpoint import build_policy
from src.external.babyai_data import collect
from src.external.babyai_part import FILE, BabyAI
from src.external.levels import TEST_SEEDS, VALIDATION_SEEDS
from src.model.policy import Policy

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data.source.levels=GoToObj+GoToLocal",
    "data.source.episodes=6",
    "data.source.progress=false",
    "model.backbone.widths=[16]",
    "model.backbone.hidden_size=32",
    "model.backbone.film_blocks=1",
    "model.head.hidden_size=16",
    "model.head.mlp=[16]",
    "evaluation.parts.babyai.levels=[GoToObj,GoToLocal]",
    "evaluation.parts.babyai.episodes=2",
    "evaluation.parts.babyai.baseline_episodes=1",
    "evaluation.parts.babyai.probe_episodes=2",
    "evaluation.parts.babyai.glance_episodes=2",
]


@pytest.fixture(scope="module")
def trained(
    compose: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Policy, EpisodeDataModule, BabyAI]:
    """A small policy with fresh weights, its recorded rooms, and the part as the experiment configures it."""
    root = tmp_path_factory.mktemp("babyai") / "data"
    cfg = compose("train", "experiment=babyai", "run_folder=x", f"data.root={root}", *SMALL)
    data = build(cfg.data)
    policy = build_policy(cfg, data.action_space, data.normalizer)
    data.prepare_data()
    data.setup("fit")
    policy.fit_actions(data.training_actions())
    data.bind(policy.tokenize)
    return policy, data, build(cfg.evaluation.parts.babyai)


def bench(policy: Policy, data: EpisodeDataModule, folder: Path) -> Bench:
    return Bench(policy, data, folder, None, "val", [], "en", 1, None, 50, 1, 0)


def test_the_section_of_a_report(
    trained: tuple[Policy, EpisodeDataModule, BabyAI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, data, part = trained
    part.check(policy.horizon, data)
    at = bench(policy, data, tmp_path)
    section = part.measure(at)
    assert section["files"] == {"babyai": FILE} and section["minigrid"].count(".") == 2
    assert list(section["levels"]) == ["GoToObj", "GoToLocal"]
    for figures in section["levels"].values():
        assert isinstance(figures["policy"]["success"], Estimate) and figures["policy"]["success"].n == 2
        assert figures["bot"]["success"].n >= 2
        assert set(figures["baselines"]) == {"majority", "clock", "random"}
        assert figures["baselines"]["random"]["success"].n == 1
    assert section["levels"]["GoToObj"]["retargeted"] is None  # one thing in the room: no other to name
    assert section["levels"]["GoToLocal"]["retargeted"]["named"].n == 2
    verdict = part.verdict(section, at)
    assert verdict["success"].startswith("success ") and "on GoToLocal" in verdict["success"]
    assert verdict["listens"].answer == "not decided"  # two rooms are too few
    assert set(verdict["not_beaten"]) <= {"majority", "clock", "random"}

    rows = json.loads((tmp_path / FILE).read_text())
    assert [row["seed"] for row in rows["GoToObj"]["policy"]] == [TEST_SEEDS, TEST_SEEDS + 1]
    first = rows["GoToLocal"]
    assert {row["instruction"] for row in first["first"]} == {row["instruction"] for row in first["named"]}
    assert [row["target"] for row in first["first"]] == [row["target"] for row in first["policy"]]

    monkeypatch.setattr(part, "batch_size", 1)
    monkeypatch.setattr(part, "levels", ["GoToLocal"])
    assert part.measure(at)["levels"]["GoToLocal"] == section["levels"]["GoToLocal"]  # again, one by one


def test_the_glance_is_of_other_rooms(
    trained: tuple[Policy, EpisodeDataModule, BabyAI], tmp_path: Path
) -> None:
    policy, data, part = trained
    figures = part.glance(bench(policy, data, tmp_path))
    assert list(figures) == ["GoToObj/success"] and 0 <= figures["GoToObj/success"] <= 1
    assert list(tmp_path.iterdir()) == []


def test_data_from_elsewhere_or_of_the_test_s_rooms_are_refused(
    trained: tuple[Policy, EpisodeDataModule, BabyAI],
) -> None:
    policy, data, part = trained
    facts = data.episodes("train")[0].attributes
    for changed, message in (
        ({"seed": VALIDATION_SEEDS}, "found a room of seed 900000"),
        ({"minigrid": "0.0"}, "versions draw other rooms"),
        ({"layout": None}, "nobody can tell which rooms"),
    ):
        before = dict(facts)
        facts.update({key: value for key, value in changed.items() if value is not None})
        for key in [key for key, value in changed.items() if value is None]:
            del facts[key]
        with pytest.raises(ProjectError, match=message):
            part.check(policy.horizon, data)
        facts.update(before)
    part.check(policy.horizon, data)


def test_rooms_that_were_recorded_are_not_driven(
    trained: tuple[Policy, EpisodeDataModule, BabyAI], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the evaluation to draw its rooms from the recorded seeds, every one would be recognised."""
    policy, data, part = trained
    monkeypatch.setattr(part, "first_seed", 0)
    for key, value in {"levels": ["GoToLocal"], "episodes": 1, "baselines": [], "probe_episodes": 0}.items():
        monkeypatch.setattr(part, key, value)
    figures = part.measure(bench(policy, data, tmp_path))["levels"]["GoToLocal"]
    assert figures["passed_over"]["recorded before"] == 6


@pytest.mark.slow
def test_the_experiment_from_the_command_line(tmp_path: Path) -> None:
    """Records, trains, drives and reports in a process of its own; repeating the evaluation gives the same figures."""
    run, root = tmp_path / "run", tmp_path / "data"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "src.train",
        "experiment=babyai",
        f"data.root={root}",
        f"hydra.run.dir={run}",
    ]
    command += [*SMALL, "trainer.max_epochs=1", "logger=csv"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((run / "report.json").read_text())
    assert report["failed"] == {}
    assert report["babyai"]["levels"]["GoToLocal"]["policy"]["success"]["n"] == 2
    assert report["metrics"]["babyai/levels/GoToObj/policy/success"] is not None
    assert "on GoToLocal" in report["verdict"]["line"]
    again = [sys.executable, "-m", "src.evaluate", f"run={run}", "name=again"]
    done = subprocess.run(again, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr + done.stdout
    repeated = json.loads((run / "evaluations" / "again" / "report.json").read_text())
    assert repeated["babyai"] == report["babyai"] and repeated["verdict"] == report["verdict"]


def test_a_finished_folder_is_what_the_experiment_asks_for(tmp_path: Path, compose: Any) -> None:
    """The YAML's keys are those of the recorder: what it makes is not refused by the data module."""
    cfg = compose("train", "experiment=babyai", "run_folder=x", f"data.root={tmp_path / 'd'}", *SMALL)
    source = {key: value for key, value in cfg.data.source.items() if not key.startswith("_")}
    made = collect(tmp_path / "d", **source)
    build(cfg.data).prepare_data()
    assert made["settings"]["levels"] == "GoToObj+GoToLocal"
