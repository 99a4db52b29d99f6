"""Owns the phases of a drive: where in it, and in which motion, a policy errs.

In: recorded frames (`Truth`) and predictions. Out: the offline figures per phase. Two divisions, each of which puts
every frame into exactly one phase, for any data and any action space:

    by time     start, middle, end: the thirds of the episode by frame number. Demonstrations tend to leave the start
                alike, pass what is in the way in the middle and approach at the end.
    by motion   what the recorded action does: stopped, turning, sideways, straight, or moving where the action space
                has none of the axes linear_x, linear_y, angular_z. The recorded action is not an input of the policy,
                so a phase is chosen by what was right to do, not by what was done.
"""

from __future__ import annotations

import numpy as np

from src.data.actions import STOP_FRACTION, ActionSpace
from src.evaluation.offline.scores import Truth, score, select

TIME = ("start", "middle", "end")
MOTION = ("stopped", "straight", "sideways", "turning", "moving")


def by_time(truth: Truth) -> np.ndarray:
    """(S,) str out of `TIME`: frame t of an episode of T frames is in third `3 t // T`."""
    _, index = np.unique(truth.episode, return_inverse=True)
    last = np.zeros(int(index.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(last, index, truth.t)
    return np.array(TIME)[3 * truth.t // (last[index] + 1)]


def by_motion(actions: np.ndarray, space: ActionSpace, steering: float) -> np.ndarray:
    """(S,) str out of `MOTION` for recorded actions (S, A) in SI units.

    stopped: every axis below 10 % of its limit, the rule of the stop class (`ActionSpace.classify`).
    turning: |angular_z| is at least the share `steering` of its limit, whatever else it does.
    sideways: not turning, and |linear_y| is at least that share of its limit, so diagonals too.
    straight: the rest, forward or backward.
    """
    scaled = np.abs(np.asarray(actions, dtype=np.float64)) / space.scale

    def steers(axis: str) -> np.ndarray:
        if axis not in space.names:
            return np.zeros(len(scaled), dtype=bool)
        return np.asarray(scaled[:, space.names.index(axis)] >= steering)

    known = {"linear_x", "linear_y", "angular_z"} & set(space.names)
    still = scaled.max(axis=1) < STOP_FRACTION
    cases = [still, steers("angular_z"), steers("linear_y")]
    return np.select(cases, ["stopped", "turning", "sideways"], "straight" if known else "moving")


def phases(truth: Truth, space: ActionSpace, steering: float) -> dict[str, np.ndarray]:
    """Phase → (S,) bool, its frames; phases without a frame are left out."""
    time, motion = by_time(truth), by_motion(truth.actions[:, 0], space, steering)
    found = {**{name: time == name for name in TIME}, **{name: motion == name for name in MOTION}}
    return {name: rows for name, rows in found.items() if rows.any()}


def phase_table(
    predicted: np.ndarray, truth: Truth, space: ActionSpace, tolerance: float, steering: float, seed: int = 0
) -> dict[str, dict[str, object]]:
    """Phase → the figures of `scores.score` over its frames; `predicted` (S, H, A) SI."""
    return {
        name: score(predicted[rows], select(truth, rows), space, tolerance, seed, per_scenario=False)
        for name, rows in phases(truth, space, steering).items()
    }
