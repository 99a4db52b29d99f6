"""Phases partition the frames, whatever the data and the action space, and mean what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.actions import ActionSpace
from src.evaluation.offline import phases
from src.evaluation.offline.scores import score, select
from tests.deploy.standins import LIMIT, SPACE
from tests.evaluation.offline.recordings import collected, recorded

SPACES = {
    "omni3d": SPACE,
    "omni2d": ActionSpace(("linear_x", "linear_y"), ("m/s", "m/s"), (-1, -1), (1, 1), 0.4),
    "diff_drive": ActionSpace(("linear_x", "angular_z"), ("m/s", "rad/s"), (-0.5, -1.9), (0.5, 1.9), 0.3),
    "wheels": ActionSpace(("left_wheel", "right_wheel"), ("rad/s", "rad/s"), (-9, -9), (9, 9), 0.1),
}


@given(
    name=st.sampled_from(sorted(SPACES)),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    steering=st.floats(0.05, 1.0),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_every_frame_has_one_phase_in_time_and_one_in_motion(
    name: str, lengths: list[int], steering: float, seed: int
) -> None:
    space, rng = SPACES[name], np.random.default_rng(seed)
    scale = rng.choice([0.05, 0.3, 1.0])
    truth = recorded([rng.uniform(space.low, space.high, (n, space.dim)) * scale for n in lengths])
    found = phases.phases(truth, space, steering)
    assert set(found) <= {*phases.TIME, *phases.MOTION}
    for division in (phases.TIME, phases.MOTION):
        times = sum(found[phase].astype(int) for phase in division if phase in found)
        np.testing.assert_array_equal(times, np.ones(sum(lengths)))
    assert all(rows.any() for rows in found.values())


@pytest.mark.parametrize("length", [1, 2, 3, 7, 18])
def test_thirds_of_an_episode(length: int) -> None:
    truth = recorded([np.zeros((length, 3)), np.zeros((30, 3))])
    names = phases.by_time(truth)[:length]
    expected = [["start", "middle", "end"][min(2, int(3 * t / length))] for t in range(length)]
    assert names.tolist() == expected
    assert phases.by_time(truth)[length:].tolist() == ["start"] * 10 + ["middle"] * 10 + ["end"] * 10


def test_motions_mean_what_they_say() -> None:
    cases = {
        (0.0, 0.0, 0.0): "stopped",
        (0.11, -0.11, 0.1): "stopped",  # all below 10 % of 1.15
        (1.0, 0.2, -0.2): "straight",
        (-1.0, 0.0, 0.0): "straight",  # backward
        (1.15, 1.15, 0.0): "sideways",  # diagonal
        (0.0, -1.15, 0.0): "sideways",
        (0.0, 0.0, 0.3): "turning",
        (1.0, 1.0, -0.3): "turning",
    }
    found = phases.by_motion(np.array(list(cases)), SPACE, 0.25)
    assert dict(zip(cases, found.tolist(), strict=True)) == cases
    spin = phases.by_motion(np.array([[0.5, 1.9], [0.0, 0.0], [0.5, 0.1]]), SPACES["diff_drive"], 0.25)
    assert spin.tolist() == ["turning", "stopped", "straight"]
    wheels = phases.by_motion(np.array([[9.0, 9.0], [0.5, -0.5]]), SPACES["wheels"], 0.25)
    assert wheels.tolist() == ["moving", "stopped"]


def test_a_phase_is_scored_over_its_frames_alone() -> None:
    truth, predicted = collected()
    table = phases.phase_table(predicted, truth, SPACE, 0.1, 0.25, seed=3)
    assert sum(table[name]["n"] for name in phases.TIME) == len(truth.t)
    assert sum(table[name]["n"] for name in phases.MOTION if name in table) == len(truth.t)
    rows = np.abs(truth.actions[:, 0, 2]) >= 0.25 * LIMIT
    assert table["turning"] == score(predicted[rows], select(truth, rows), SPACE, 0.1, 3, per_scenario=False)
    better = predicted.copy()
    better[rows] = truth.actions[rows]
    again = phases.phase_table(better, truth, SPACE, 0.1, 0.25, seed=3)
    assert again["turning"]["error"].value == 0 < table["turning"]["error"].value
    untouched = [name for name in ("straight", "sideways") if name in table]
    assert untouched and all(again[name] == table[name] for name in untouched)
