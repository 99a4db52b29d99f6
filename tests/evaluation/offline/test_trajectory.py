"""Paths against the matrix exponential, against a thousand small steps, and against poses the simulator recorded."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import open_episode
from src.evaluation.offline.scores import select
from src.evaluation.offline.trajectory import integrate, paths, trajectory, unmeasured
from src.sim.collect import collect
from tests.deploy.standins import SPACE
from tests.evaluation.offline.recordings import recorded

OMNI = ActionSpace(("linear_x", "linear_y"), ("m/s", "m/s"), (-1, -1), (1, 1), 0.4)
speeds = st.floats(-1.15, 1.15)


@given(st.lists(st.tuples(speeds, speeds, speeds), min_size=1, max_size=12), st.floats(0.01, 3.0))
@settings(max_examples=60, deadline=None)
def test_a_path_is_the_product_of_matrix_exponentials(
    actions: list[tuple[float, float, float]], period: float
) -> None:
    poses = integrate(np.array(actions), dataclasses.replace(SPACE, control_period=period))
    frame, yaw = np.eye(3), 0.0
    np.testing.assert_array_equal(poses[0], 0)
    for (ahead, left, turn), pose in zip(actions, poses[1:], strict=True):
        frame = frame @ expm(np.array([[0, -turn, ahead], [turn, 0, left], [0, 0, 0]]) * period)
        yaw += turn * period
        np.testing.assert_allclose(pose, [frame[0, 2], frame[1, 2], yaw], atol=1e-9)


def test_many_small_steps_lead_to_the_same_place() -> None:
    actions = np.random.default_rng(0).uniform(-1.15, 1.15, (6, 3))
    x = y = yaw = 0.0
    small = 2000
    for ahead, left, turn in actions:
        dt = SPACE.control_period / small
        for _ in range(small):
            half = yaw + turn * dt / 2
            x += (math.cos(half) * ahead - math.sin(half) * left) * dt
            y += (math.sin(half) * ahead + math.cos(half) * left) * dt
            yaw += turn * dt
    np.testing.assert_allclose(integrate(actions, SPACE)[-1], [x, y, yaw], atol=1e-6)


def test_missing_axes_are_zero_and_their_order_is_free() -> None:
    np.testing.assert_allclose(integrate(np.array([[0.5, -1.0]]), OMNI)[-1], [0.2, -0.4, 0])
    turned = ActionSpace(
        ("angular_z", "gripper", "linear_x"), ("rad/s", "m", "m/s"), (-9,) * 3, (9,) * 3, 1.0
    )
    full_circle = integrate(np.array([[2 * math.pi, 5.0, 1.0]]), turned)[-1]
    np.testing.assert_allclose(full_circle, [0, 0, 2 * math.pi], atol=1e-12)
    half = integrate(np.array([[math.pi, 0.0, 1.0]]), turned)[-1]
    np.testing.assert_allclose(half, [0, 2 / math.pi, math.pi], atol=1e-12)  # a half circle of radius 1/π


def test_figures_of_known_paths() -> None:
    """One robot drives 4 m ahead but is predicted to drive 3; the other is predicted to leave at a right angle."""
    ahead, left = np.array([[1.0, 0.0]] * 10), np.array([[0.0, 1.0]] * 5)
    truth = recorded([ahead, ahead[:5]])
    predicted = np.concatenate([0.75 * ahead, left])[:, None]
    found = trajectory(predicted, truth, OMNI)
    far = math.sqrt(2) * 2.0
    assert found["episodes"] == 2
    assert found["path_length"].value == pytest.approx((4 + 2) / 2)
    assert found["final_position"].value == pytest.approx((1 + far) / 2)
    deviation = (np.mean([0.1 * k for k in range(1, 11)]), np.mean([far * k / 5 for k in range(1, 6)]))
    assert found["path_deviation"].value == pytest.approx(np.mean(deviation))
    assert found["final_position_relative"].value == pytest.approx((1 + far) / 6)
    assert found["path_deviation_relative"].value == pytest.approx(sum(deviation) / 6)
    assert found["final_position"].n == found["final_position"].clusters == 2
    assert (found["final_heading"].n, found["final_heading"].value) == (0, None)  # no axis turns this base


def test_headings_are_compared_around_the_circle() -> None:
    spin = np.zeros((9, 3))
    spin[:, 2] = 1.0  # 3 rad in 9 steps of 1/3 s
    found = trajectory(-spin[:, None], recorded([spin]), SPACE)
    assert found["final_heading"].value == pytest.approx(2 * math.pi - 6)
    assert found["final_position_relative"].n == 0  # a robot that turns on the spot has no path length


def test_intervals_redraw_groups_and_a_perfect_policy_has_no_error() -> None:
    rng = np.random.default_rng(1)
    drives = [rng.uniform(-1, 1, (6, 3)) for _ in range(8)]
    truth = recorded(drives, groups=["a", "a", "b", "b", "c", "c", "d", "d"])
    found = trajectory(truth.actions + rng.normal(0, 0.2, truth.actions.shape), truth, SPACE)
    for name in ("final_position", "final_heading", "path_deviation", "final_position_relative"):
        assert found[name].clusters == 4 and found[name].n == 8
        assert 0 <= found[name].low < found[name].value < found[name].high
    perfect = trajectory(truth.actions, truth, SPACE)
    assert perfect["final_position"].value == perfect["final_heading"].value == 0


def test_a_hole_in_an_episode_is_refused() -> None:
    truth = recorded([np.ones((5, 3))])
    kept = np.array([0, 1, 3, 4])
    with pytest.raises(ProjectError, match="e000 has the frames .0, 1, 3, 4., expected 0 to 3"):
        paths(truth.actions[kept], select(truth, kept), SPACE)


def test_an_action_space_that_moves_no_base_says_so() -> None:
    arm = ActionSpace(("shoulder",), ("rad/s",), (-1,), (1,), 0.1)
    assert "none of the axes linear_x" in str(unmeasured(arm))
    odd = ActionSpace(("linear_x",), ("cm/s",), (-1,), (1,), 0.1)
    assert "linear_x is in cm/s" in str(unmeasured(odd))
    assert unmeasured(OMNI) is None
    with pytest.raises(ProjectError, match="data.action: .*leave the trajectory out"):
        integrate(np.zeros((1, 1)), arm)


def test_recorded_commands_lead_about_where_the_simulator_drove(tmp_path: Path) -> None:
    """Without noise a drive is its commands; what remains is the lag of the motors, 0.1 to 0.2 m."""
    collect(tmp_path, suite="route1", episodes=4, image_size=16, noise=0.0, workers=1, progress=False)
    files = sorted(tmp_path.glob("*.h5"))
    assert len(files) == 4
    for file in files:
        episode = open_episode(file)
        driven = episode.poses
        assert driven is not None
        start = driven[0]
        cos, sin = math.cos(start[2]), math.sin(start[2])
        made = integrate(episode.actions, SPACE)[: len(driven)]
        at = start[:2] + made[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        apart = np.linalg.norm(at - driven[:, :2], axis=1)
        length = np.linalg.norm(np.diff(driven[:, :2], axis=0), axis=1).sum()
        assert length > 3.5
        assert apart.mean() < 0.15 and apart.max() < 0.3
        np.testing.assert_allclose(made[:, 2] + start[2], driven[:, 2], atol=0.1)
