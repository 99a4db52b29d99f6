"""The distance to the expert's path: against a slow reference, and what it must and must not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from src.evaluation.driving.closed_loop import ExpertController, Suite, drive
from src.evaluation.driving.path_error import one_way, path_distance, path_error, resampled
from tests.evaluation.drivers import Deaf

POINTS = arrays(np.float64, st.tuples(st.integers(1, 6), st.just(2)), elements=st.floats(-5, 5, width=32))


def slow(path: np.ndarray, other: np.ndarray) -> float:
    """Walk along `path` in small steps; at each, look at small steps of `other`."""

    def walk(points: np.ndarray, step: float) -> np.ndarray:
        out = [points[0]]
        for a, b in zip(points, points[1:], strict=False):
            count = max(1, int(np.hypot(*(b - a)) / step))
            out += [a + (b - a) * (i + 1) / count for i in range(count)]
        return np.array(out)

    dense = walk(other, 0.01)
    return float(np.mean([np.hypot(*(dense - place).T).min() for place in walk(path, 0.01)]))


def test_it_is_the_mean_distance_along_both_paths() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        first, second = (np.cumsum(rng.normal(0, 0.6, (9, 2)), axis=0) for _ in range(2))
        assert one_way(first, second) == pytest.approx(slow(first, second), abs=0.02)
        both = (slow(first, second) + slow(second, first)) / 2
        assert path_distance(first, second) == pytest.approx(both, abs=0.02)


def test_known_distances() -> None:
    straight = np.array([[0.0, 0.0], [4.0, 0.0]])
    assert path_distance(straight, straight + [0, 0.3]) == pytest.approx(0.3)
    halted = straight * [0.25, 1]
    assert one_way(halted, straight) == pytest.approx(0)  # why one direction alone would not do
    # Backwards: nothing for the first metre, then 0 … 3 m over three quarters of the way.
    assert path_distance(halted, straight) == pytest.approx(0.75 * 1.5 / 2, rel=0.02)
    assert path_distance(straight[:1], straight) == pytest.approx(1.0, rel=0.02)  # never moved: half of 2 m


@settings(max_examples=60, deadline=None)
@given(POINTS, POINTS, st.integers(0, 5))
def test_it_is_a_symmetric_distance_that_waiting_does_not_change(
    first: np.ndarray, second: np.ndarray, wait: int
) -> None:
    value = path_distance(first, second)
    assert value >= 0 and path_distance(first, first) == pytest.approx(0, abs=1e-6)
    assert path_distance(second, first) == pytest.approx(value, abs=1e-9)
    at = wait % len(first)
    waited = np.concatenate([first[: at + 1], np.repeat(first[at : at + 1], 7, axis=0), first[at + 1 :]])
    assert path_distance(waited, second) == pytest.approx(value, abs=1e-6)
    assert path_distance(first + 3, second + 3) == pytest.approx(value, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_points_are_evenly_spaced_along_the_path(path: np.ndarray) -> None:
    points = resampled(path, 0.05)
    length = np.hypot(*np.diff(path, axis=0).T).sum()
    np.testing.assert_allclose(points[[0, -1]], path[[0, -1]] if length else path[[0, 0]], atol=1e-9)
    assert np.hypot(*np.diff(points, axis=0).T).max(initial=0) <= 0.05 + 1e-9
    assert len(points) <= length / 0.05 + 2


def test_rollouts_are_compared_task_by_task_where_the_expert_succeeded() -> None:
    tasks = Suite("full1", "layout", 6).tasks()
    expert, deaf = drive(ExpertController(), tasks, 16), drive(Deaf(), tasks, 16)
    assert all(r.outcome.success for r in expert)
    itself = path_error(expert, expert)
    assert itself.value == pytest.approx(0, abs=1e-9) and itself.n == 6
    error = path_error(deaf, expert, seed=3)
    by_hand = [path_distance(a.poses[:, :2], b.poses[:, :2]) for a, b in zip(deaf, expert, strict=True)]
    assert error.value == pytest.approx(np.mean(by_hand)) and error.value > 0.1 and error.low > 0
    assert error == path_error(deaf, expert, seed=3)
    failed = [replace(expert[0], outcome=replace(expert[0].outcome, success=False)), *expert[1:]]
    assert path_error(deaf, failed).n == 5
    assert path_error(deaf[:0], expert[:0]).value is None
