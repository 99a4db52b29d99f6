"""The section `offline` of a real bench: every figure in its place, the same twice, and honest about what it lacks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.core.files import atomic_write_text
from src.data.actions import ActionSpace
from src.data.datamodule import EpisodeDataModule
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from src.evaluation.bench import Bench
from src.evaluation.offline.part import Offline
from src.evaluation.report.record import plain
from src.sim.collect import collect
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.offline.recordings import recorded

CONF = Path(__file__).resolve().parents[3] / "conf"


def part(**changes: Any) -> Offline:
    """conf/evaluation/part/offline.yaml as shipped, but for the changes."""
    cfg = OmegaConf.merge(OmegaConf.load(CONF / "evaluation" / "part" / "offline.yaml"), changes)
    check(cfg)
    return build(cfg)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder, run = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("run")
    collect(folder, suite="full1", episodes=12, image_size=16, workers=1, progress=False)
    data = EpisodeDataModule(
        str(folder), SPACE, MinMaxNormalizer(), EpisodeSampler(4), SplitRule(0.5, 0.5, 0.0), 3, 4, 16
    )
    policy = toy_policy()
    data.bind(policy.tokenize)
    data.setup("fit")
    rows = "".join(f"{10 * i},{i},{1 / (i + 1)},{1 / (i + 1)}\n" for i in range(8))
    atomic_write_text(run / "metrics.csv", "step,epoch,train/loss,val/loss\n" + rows)
    return Bench(policy, data, run, run, "val", [], "en", 1, None, 8, 1, 0)


def test_the_section_has_every_figure_of_the_schema(bench: Bench) -> None:
    section = plain(part().measure(bench))
    json.dumps(section, allow_nan=False)
    expected = {
        "split", "split_role", "n", "groups", "tolerance", "error", "mae", "rmse", "mae_horizon", "rmse_horizon",
        "within_tolerance", "direction_accuracy", "macro_f1", "scenarios", "phases", "horizon", "confusion",
        "trajectory", "curves",
    }  # fmt: skip
    assert set(section) == expected
    assert section["split"] == "val" and "chose the checkpoint" in section["split_role"]
    frames = sum(e.length for e in bench.episodes)
    assert section["n"] == frames == np.sum(section["confusion"]["counts"])
    assert section["horizon"]["1"] == section["error"] and list(section["horizon"]) == ["1", "2", "3", "4"]
    assert sum(section["phases"][name]["n"] for name in ("start", "middle", "end")) == frames
    assert section["trajectory"]["final_position"]["n"] == len(bench.episodes)
    assert 2 < section["trajectory"]["path_length"]["value"] < 12
    assert section["curves"]["best"]["epoch"] == 7


def test_a_second_measurement_gives_the_same_figures(bench: Bench) -> None:
    again = dataclasses.replace(bench)
    assert plain(part().measure(again)) == plain(part().measure(bench))


def test_the_light_version_has_the_values_of_the_full_one(bench: Bench) -> None:
    section = part().measure(bench)
    assert part(every_n_epochs=2).every_n_epochs == 2
    assert part().glance(bench) == {
        "error": pytest.approx(section["error"].value),
        "direction_accuracy": pytest.approx(section["direction_accuracy"].value),
    }


def test_what_an_arm_without_classes_and_run_lacks_is_said() -> None:
    arm = ActionSpace(("shoulder", "elbow"), ("rad/s", "rad/s"), (-1, -1), (1, 1), 0.1)
    truth = recorded([np.random.default_rng(i).uniform(-1, 1, (9, 2)) for i in range(3)])
    given = SimpleNamespace(predicted=truth.actions, truth=truth, space=arm, seed=0, split="test", run=None)
    section = part().measure(given)  # type: ignore[arg-type]
    assert "no direction classes" in section["confusion"]["not_measured"]
    assert "none of the axes" in section["trajectory"]["not_measured"]
    assert "no run folder" in section["curves"]["not_measured"]
    assert "direction_accuracy" not in section and section["error"].value == 0
    assert set(section["phases"]) == {"start", "middle", "end", "moving"}


@pytest.mark.parametrize("key", ["tolerance", "steering"])
def test_shares_out_of_range_are_refused_by_name(key: str) -> None:
    for wrong in (0.0, 1.5):
        with pytest.raises(ProjectError, match=f"offline.{key} is {wrong}"):
            part(**{key: wrong})


def test_hydra_composes_the_part() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluation/part/offline")
    assert isinstance(build(cfg.evaluation.part), Offline)
