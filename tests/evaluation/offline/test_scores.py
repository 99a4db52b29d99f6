"""Offline figures against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.evaluation.offline import scores
from tests.deploy.standins import LIMIT, SPACE, toy_policy
from tests.evaluation.offline.recordings import ACTIONS, FRAMES, LABELS, LENGTHS, H, Loader, collected


def test_collect_sorts_and_scores_equal_plain_loops() -> None:
    truth, predicted = collected()
    rows = list(zip(truth.episode.tolist(), truth.t.tolist(), strict=True))
    assert rows == [(e, t) for e in "abcd" for t in range(LENGTHS[e])]
    figures = scores.score(predicted, truth, SPACE, tolerance=0.3)
    for axis, name in enumerate(SPACE.names):
        now = [predicted[i, 0, axis] - ACTIONS[e][t, axis] for i, (e, t) in enumerate(rows)]
        whole = [
            predicted[i, h, axis] - ACTIONS[e][t + h, axis]
            for i, (e, t) in enumerate(rows)
            for h in range(H)
            if t + h < LENGTHS[e]
        ]
        assert figures["mae"][name].value == pytest.approx(np.mean(np.abs(now)), rel=1e-5)
        assert figures["rmse"][name].value == pytest.approx(math.sqrt(np.mean(np.square(now))), rel=1e-5)
        assert figures["mae_horizon"][name].value == pytest.approx(np.mean(np.abs(whole)), rel=1e-5)
        assert figures["rmse_horizon"][name].value == pytest.approx(
            math.sqrt(np.mean(np.square(whole))), rel=1e-5
        )
    right = SPACE.classify(predicted[:, 0]) == SPACE.classify(truth.actions[:, 0])
    assert figures["direction_accuracy"].value == pytest.approx(right.mean())
    assert figures["direction_accuracy"].n == 27 and figures["direction_accuracy"].clusters == 4
    within = np.all(np.abs(predicted[:, 0] - truth.actions[:, 0]) <= 0.3 * LIMIT, axis=1)
    assert figures["within_tolerance"].value == pytest.approx(within.mean())
    assert figures["scenarios"]["ball"]["n"] == LENGTHS["d"]


def test_error_over_the_horizon_equals_plain_loops_and_counts_valid_steps_alone() -> None:
    truth, predicted = collected()
    predicted = np.where(truth.mask[..., None], predicted, 1e9)  # padding would shine through
    found = scores.over_horizon(predicted, truth, SPACE)
    assert list(found) == ["1", "2", "3"]
    for step in range(H):
        errors = [
            np.mean(np.abs(predicted[i, step] - ACTIONS[e][t + step])) / LIMIT
            for i, (e, t) in enumerate(zip(truth.episode, truth.t, strict=True))
            if t + step < LENGTHS[e]
        ]
        assert found[str(step + 1)].value == pytest.approx(np.mean(errors), rel=1e-5)
        assert found[str(step + 1)].n == len(errors) == 27 - 4 * step
    now = scores.score(predicted, truth, SPACE, 0.1)["error"]
    assert (found["1"].value, found["1"].low, found["1"].high) == (now.value, now.low, now.high)


def test_a_step_beyond_every_episode_was_not_measured() -> None:
    truth, predicted = collected()
    short = scores.select(truth, truth.t == [LENGTHS[e] - 1 for e in truth.episode])
    found = scores.over_horizon(predicted[truth.t == [LENGTHS[e] - 1 for e in truth.episode]], short, SPACE)
    assert found["1"].n == 4 and (found["2"].n, found["2"].value) == (0, None)


def test_point_scores_are_the_values_of_the_full_ones() -> None:
    truth, predicted = collected()
    figures = scores.score(predicted, truth, SPACE, 0.1)
    assert scores.point_scores(predicted, truth, SPACE) == {
        "error": pytest.approx(figures["error"].value),
        "direction_accuracy": pytest.approx(figures["direction_accuracy"].value),
    }


def test_no_interval_leaves_what_the_figure_can_be() -> None:
    truth, predicted = collected()  # four groups: intervals are wide
    figures = scores.score(predicted, truth, SPACE, 0.3)
    for name in ("within_tolerance", "direction_accuracy", "macro_f1"):
        assert 0 <= figures[name].low <= figures[name].value <= figures[name].high <= 1, name
    assert figures["error"].low >= 0 and all(e.low >= 0 for e in figures["rmse"].values())


def test_macro_f1_equals_the_definition() -> None:
    rng = np.random.default_rng(4)
    true, called, cluster = rng.integers(0, 4, 200), rng.integers(0, 5, 200), rng.integers(0, 9, 200)
    f1 = []
    for c in range(4):
        hits = np.sum((true == c) & (called == c))
        precision, recall = hits / max(1, np.sum(called == c)), hits / np.sum(true == c)
        f1.append(0.0 if hits == 0 else 2 * precision * recall / (precision + recall))
    estimate = scores.macro_f1(called, true, cluster, 5)
    assert estimate.value == pytest.approx(np.mean(f1))
    assert estimate.low < estimate.value < estimate.high


def test_a_perfect_policy_scores_perfectly_and_padding_never_counts() -> None:
    truth, _ = collected()
    dirty = np.where(truth.mask[..., None], truth.actions, 99.0)
    figures = scores.score(dirty, truth, SPACE, 0.1)
    assert figures["mae_horizon"]["linear_x"].value == 0 and figures["macro_f1"].value == 1
    assert figures["within_tolerance"].value == 1
    assert figures["within_tolerance"].low < 0.6  # four faultless drives are no proof


def test_a_frame_served_twice_is_refused() -> None:
    policy = toy_policy(window=3, horizon=H)
    batch = Loader(policy).batch(["a"])
    with pytest.raises(ProjectError, match="twice"):
        scores.collect(policy, [batch, batch], LABELS)
    with pytest.raises(ProjectError, match="no frames"):
        scores.collect(policy, [], LABELS)


def test_mean_frame_is_the_mean_of_every_frame() -> None:
    every = np.concatenate([FRAMES[e] for e in "abcd"]).astype(float).mean(0)
    mean = scores.mean_frame(Loader(toy_policy())).permute(1, 2, 0).numpy()
    assert np.abs(mean - every).max() <= 0.5 + 1e-9
