"""Verdicts on made curves of known kind, on random ones, and on real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.config import build
from src.core.errors import ProjectError
from src.core.files import atomic_write_text
from src.evaluation.offline.curves import Curve, CurveRules, noise, read_curve
from src.experiment.csv_logger import read_metrics

CONF = Path(__file__).resolve().parents[3] / "conf"
RULES: CurveRules = build(OmegaConf.load(CONF / "evaluation" / "part" / "offline.yaml").curves)
X = np.linspace(0, 1, 12)
DUST = 0.004 * np.random.default_rng(0).normal(size=(2, 12))


def curve(validation: np.ndarray, training: np.ndarray | None = None) -> Curve:
    n = len(validation)
    training = np.full(n, np.nan) if training is None else training
    broken = not np.isfinite(validation).all() or bool(np.isinf(training).any())
    steps = tuple(range(9, 10 * n, 10))
    return Curve(tuple(range(n)), steps, tuple(map(float, validation)), tuple(map(float, training)), broken)


def answers(validation: np.ndarray, training: np.ndarray | None = None) -> dict[str, str]:
    verdicts = RULES.judge(curve(np.asarray(validation), training))["verdicts"]
    for verdict in verdicts.values():
        assert verdict["words"].endswith(".") and "\n" not in verdict["words"]
    return {key: verdict["answer"] for key, verdict in verdicts.items()}


FALLING = 1 - 0.9 * X + DUST[0]
LEVELLED = 0.1 + 0.9 * np.exp(-9 * X) + DUST[0]
U_SHAPED = 0.5 + 2 * (X - 0.4) ** 2 + DUST[0]
LEARNED = 1 - 0.8 * X + DUST[1]


def test_made_curves_are_called_by_their_names() -> None:
    falling = answers(FALLING, LEARNED)
    assert falling == {
        "diverged": "no",
        "overfits": "no",
        "still_improving": "yes",
        "best_stands_out": "yes",
    }
    levelled = answers(LEVELLED, LEVELLED - 0.02)
    assert levelled == {
        "diverged": "no",
        "overfits": "no",
        "still_improving": "no",
        "best_stands_out": "no",
    }
    u_shaped = answers(U_SHAPED, LEARNED)
    assert (u_shaped["overfits"], u_shaped["diverged"], u_shaped["still_improving"]) == ("yes", "no", "no")
    exploding = np.where(X < 0.6, 1 - X, 3.0 + X) + DUST[0]
    assert answers(exploding, exploding)["diverged"] == "yes"
    assert answers(exploding, exploding)["overfits"] == "not decided"
    flat = answers(0.5 + DUST[0], 0.5 + DUST[1])
    assert (flat["diverged"], flat["overfits"], flat["still_improving"]) == ("no", "no", "no")


def test_a_validation_curve_that_rises_with_the_training_curve_is_not_over_fitting() -> None:
    both = np.where(X < 0.5, 1 - X, 0.5 + 0.3 * (X - 0.5))
    found = RULES.judge(curve(both + DUST[0], both + DUST[1]))["verdicts"]
    assert found["overfits"]["answer"] == "no" and "so did train/loss" in found["overfits"]["words"]
    assert found["diverged"]["answer"] == "no"
    assert answers(both + DUST[0])["overfits"] == "yes"  # nothing is known of the training then


def test_figures_of_a_curve() -> None:
    values = np.array([1.0, 0.6, 0.4, 0.5, 0.44, 0.6])
    found = RULES.judge(curve(values, values - 0.1))
    assert found["n"] == 6 and found["metric"] == "val/loss"
    assert found["best"] == {"epoch": 2, "step": 29, "value": 0.4}
    assert found["last"] == {"epoch": 5, "step": 59, "value": 0.6} and found["first"]["value"] == 1.0
    assert found["rise"] == pytest.approx(0.5) and found["train_gap"] == pytest.approx(0.25)
    assert found["validation"] == pytest.approx(values.tolist()) and found["epochs"] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_few_points_decide_nothing_but_an_explosion(n: int) -> None:
    found = answers(np.linspace(1, 0.5, n), np.linspace(1, 0.5, n))
    assert {found[key] for key in ("overfits", "still_improving", "best_stands_out")} == {"not decided"}
    assert found["diverged"] == ("no" if n > 1 else "not decided")
    if n > 1:
        assert answers(np.linspace(1, 2, n), np.linspace(1, 2, n))["diverged"] == "yes"


def test_nan_is_divergence_wherever_it_stands() -> None:
    for bad in (np.nan, np.inf):
        for values in ([bad], [1.0, bad], [1.0, 0.9, bad, 0.7, 0.6, 0.5, 0.4], [bad] * 6):
            found = RULES.judge(curve(np.array(values)))
            assert found["verdicts"]["diverged"]["answer"] == "yes", values
            assert found["verdicts"]["overfits"]["answer"] == "not decided"
            assert found["best"]["value"] == min([v for v in values if np.isfinite(v)], default=None)
            json.dumps(found, allow_nan=False)
    rows = [{"step": 0, "train/loss": np.nan}, {"step": 1, "epoch": 0, "val/loss": 1.0}]
    assert read_curve(rows, "val/loss", "train/loss").broken


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30),
    st.one_of(st.none(), st.just(0.5)),
    st.sampled_from([1e-3, 1.0, 1e3]),
)
@settings(max_examples=80, deadline=None)
def test_any_curve_gets_every_verdict_and_units_do_not_matter(
    values: list[float], offset: float | None, unit: float
) -> None:
    validation = np.array(values)
    training = None if offset is None else validation * offset
    found = RULES.judge(curve(validation, training))
    json.dumps(found, allow_nan=False)
    assert {v["answer"] for v in found["verdicts"].values()} <= {"yes", "no", "not decided"}
    assert found["best"]["value"] == min(values) and found["rise"] >= 0
    if found["verdicts"]["overfits"]["answer"] == "yes":
        assert min(values) < values[-1] and found["verdicts"]["still_improving"]["answer"] != "yes"
    assert answers(validation * unit, None if training is None else training * unit) == {
        key: v["answer"] for key, v in found["verdicts"].items()
    }


def test_noise_is_measured_beside_a_trend_and_a_leap() -> None:
    rng = np.random.default_rng(0)
    trend = np.exp(-np.linspace(0, 3, 400))
    values = trend + 0.02 * rng.normal(size=400)
    values[200] += 5
    assert noise(values) == pytest.approx(0.02, rel=0.15)
    assert noise(trend) == pytest.approx(0, abs=1e-4)
    assert noise(values[:4]) is None


def test_level_curves_are_seldom_accused() -> None:
    """The rate that the module's docstring states."""
    rng = np.random.default_rng(1)
    accused = {"overfits": 0, "diverged": 0, "still_improving": 0}
    for _ in range(300):
        found = answers(1 + 0.05 * rng.normal(size=12), 1 + 0.05 * rng.normal(size=12))
        for key in accused:
            accused[key] += found[key] == "yes"
    assert accused["overfits"] <= 12 and accused["diverged"] == 0 and accused["still_improving"] <= 6


TEXT = """step,epoch,train/loss,val/loss
4,0,1.0,
9,0,0.8,
9,0,,0.7
14,1,0.6,
19,1,0.4,
19,1,,0.5
24,2,0.3,
29,2,,0.6
34,3,0.2
"""


def test_a_real_file_is_read_validation_by_validation(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "metrics.csv", TEXT)  # its last line was cut by a kill
    found = read_curve(read_metrics(tmp_path), "val/loss", "train/loss")
    assert found == Curve((0, 1, 2), (9, 19, 29), (0.7, 0.5, 0.6), (0.9, 0.5, 0.3), False)
    section = RULES.section(tmp_path)
    assert section["n"] == 3 and section["best"]["epoch"] == 1


def test_what_cannot_be_judged_says_why(tmp_path: Path) -> None:
    assert "no run folder" in RULES.section(None)["not_measured"]
    assert "has no metrics.csv" in RULES.section(tmp_path)["not_measured"]
    atomic_write_text(tmp_path / "metrics.csv", "step,epoch,train/loss\n1,0,0.5\n")
    assert "no column val/loss" in RULES.section(tmp_path)["not_measured"]


def test_a_rule_of_zero_is_refused_by_name() -> None:
    with pytest.raises(ProjectError, match="curves.noise is 0"):
        CurveRules("val/loss", "train/loss", 0.05, 0.5, 0.05, 0)
