"""Latency: the right quantiles of the right steps, of one robot, with one new frame per step."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.deploy.predictor import BatchedPredictor
from src.evaluation.latency import Latency, quantile
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.heads.lstm import LSTMHead
from src.model.history import Interleaved
from src.model.lora import FullPlacement
from src.model.policy import Policy
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.benches import demonstrations, small_bench

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return demonstrations(tmp_path_factory.mktemp("data"), episodes=8)


def test_the_shipped_part_times_one_robot(data: EpisodeDataModule, tmp_path: Path) -> None:
    cfg = OmegaConf.load(CONF / "evaluation" / "part" / "latency.yaml")
    check(cfg)
    bench = small_bench(
        data, tmp_path, split=None, suites=()
    )  # it needs neither a split to score nor a simulator
    section = build(cfg).measure(bench)
    assert section["frames_per_step"] == 1.0 and section["steps"] == cfg.steps == section["p50_ms"].n
    low, middle, high = (section[f"p{share}_ms"].value for share in (50, 95, 99))
    assert 0 < low <= middle <= high
    assert all(
        section[f"p{q}_ms"].low <= section[f"p{q}_ms"].value <= section[f"p{q}_ms"].high for q in (50, 95, 99)
    )
    assert section["device"] == "cpu" and section["threads"] >= 1
    assert (section["window"], section["control_period_ms"]) == (3, pytest.approx(1000 / 3))
    bytes_read = (
        4 * sum(p.numel() for p in bench.policy.parameters()) - 4 * 64 * 12
    )  # without the table of words
    assert section["weights_mb"] == pytest.approx(bytes_read / 1e6)
    assert section["floor_ms"] == pytest.approx(section["weights_mb"] / section["bandwidth_gb_per_s"])
    assert section["times_floor"] == pytest.approx(section["p50_ms"].value / section["floor_ms"])
    assert section["bandwidth_source"].startswith("measured") and section["accelerate"] == "none"
    assert 0 < section["first_step_ms"] < 30 * middle, "a step after the warm-up is like any other"
    assert bench.seconds["latency"] > 0 and "files" not in section


def test_it_times_the_steps_after_the_warm_up_on_training_drives(
    data: EpisodeDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[np.ndarray] = []
    said: list[str] = []
    step, reset = BatchedPredictor.step, BatchedPredictor.reset

    def slow(self: BatchedPredictor, given: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        if not given.any():
            return step(self, given, active)  # the blank frames of the warm-up at load
        frames.append(given[0])
        time.sleep(0.03 if len(frames) <= 5 else 0.004)  # the warm-up is slow
        return step(self, given, active)

    monkeypatch.setattr(BatchedPredictor, "step", slow)
    monkeypatch.setattr(
        BatchedPredictor, "reset", lambda self, texts: (said.extend(texts), reset(self, texts))[1]
    )
    section = Latency(steps=40, warmup=5).measure(small_bench(data, tmp_path))
    assert len(frames) == 45 and 4 <= section["p50_ms"].value < 30
    episodes = data.episodes("train")
    expected = np.concatenate([e.frames() for e in episodes])[:45]
    np.testing.assert_array_equal(np.stack(frames), expected)
    starts = np.cumsum([0, *(e.length for e in episodes)])
    assert said == [e.instructions[0] for e, at in zip(episodes, starts, strict=False) if at < 45]


def test_drives_start_over_where_steps_outnumber_them(data: EpisodeDataModule, tmp_path: Path) -> None:
    total = sum(e.length for e in data.episodes("train"))
    section = Latency(steps=total + 3, warmup=0).measure(small_bench(data, tmp_path))
    assert section["steps"] == total + 3 and section["frames_per_step"] == 1.0


def test_interleaved_windows_encode_one_frame_per_step_too(
    data: EpisodeDataModule, small_kosmos: Path, tmp_path: Path
) -> None:
    head = partial(LSTMHead, layers=1, hidden_size=8, mlp=(8,))
    normalizer = toy_policy().normalizer
    backbone = Kosmos2Backbone(str(small_kosmos))
    policy = Policy(backbone, FullPlacement(), Interleaved(), head, SPACE, normalizer, 3, 4).eval()
    section = Latency(steps=12, warmup=1).measure(small_bench(data, tmp_path, policy))
    assert section["frames_per_step"] == 1.0 and section["window"] == 3


@given(st.lists(st.floats(0.1, 500), min_size=2, max_size=60), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_numpy_s(values: list[float], share: float) -> None:
    found = quantile(np.array(values), share)
    assert found.value == np.quantile(values, share, method="inverted_cdf") and found.n == len(values)
    assert found.low <= found.value <= found.high


def test_the_interval_of_the_median_covers_it() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(60):
        found = quantile(rng.lognormal(1, 0.5, 80), 0.5, seed)
        hits += found.low <= np.e <= found.high
    assert hits >= 52  # 95 % of 60 is 57; 51 or fewer would happen once in 100


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (0, 0), (10, -1)])
def test_settings_that_make_no_sense_are_refused(steps: int, warmup: int) -> None:
    with pytest.raises(ProjectError, match=r"evaluation\.parts\.latency"):
        Latency(steps, warmup)
