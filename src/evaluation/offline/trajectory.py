"""Owns the open-loop trajectory error: where the robot would have gone, had it carried out the predictions blindly.

In: recorded and predicted actions of whole episodes. Out: paths by integrating body velocities, and the distances
between them. Errors of single frames hide whether they cancel or add up; a path does not. It is *open loop*: the policy
saw the recorded frames and not those it would have come to, so this neither proves nor disproves that it can drive.

Both paths come from commands and start at the same pose. A path made of recorded commands is not the path that was
driven where something pushed the robot about: over 5.2 m, the two part by 0.11 m on average (0.14 m at the end; motors
lag) in 40 undisturbed drives of the simulator, but by 0.83 m (1.76 m) over 5.5 m in 200 demonstrations with noise 0.25,
whose record is what was right to do at each place and not what moved the robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.evaluation.offline.scores import Truth
from src.evaluation.statistics import POSITIVE, Estimate, bootstrap, bootstrap_ratio

AXES = {"linear_x": "m/s", "linear_y": "m/s", "angular_z": "rad/s"}
"""Axes of a base (ROS REP-103) and the unit in which they can be integrated."""

DRAWN = 6
"""Episodes whose paths go into the report, to be looked at."""


@dataclass(frozen=True)
class Paths:
    """One episode of T steps, recorded and predicted: poses (T+1, 3) as x m, y m, yaw rad from (0, 0, 0) on."""

    episode: str
    group: str
    recorded: np.ndarray
    predicted: np.ndarray


def unmeasured(space: ActionSpace) -> str | None:
    """Why there are no paths in this action space, in words; None where there are."""
    found = [name for name in space.names if name in AXES]
    if not found:
        return f"the action space has none of the axes {', '.join(AXES)}, but {', '.join(space.names)}"
    for name, unit in zip(space.names, space.units, strict=True):
        if name in AXES and unit != AXES[name]:
            return f"axis {name} is in {unit}, not in {AXES[name]}"
    return None


def integrate(actions: np.ndarray, space: ActionSpace) -> np.ndarray:
    """Poses (T+1, 3), x m, y m, yaw rad (not wrapped), of a base that carries out `actions` (T, A) one period each.

    Body frame to world, and exact: under a constant command a base drives an arc, so per step of angle a = ω·dt it
    moves (v_x·sin a − v_y·(1 − cos a), v_x·(1 − cos a) + v_y·sin a) / ω in the frame at the start of the step (the
    exponential map of SE(2), e.g. Lynch & Park, Modern Robotics, chapter 3). Axes that the action space lacks are 0,
    and axes that move no base are not used. Written with sinc, so that ω = 0 is no special case.

    Raises:
        ProjectError: the axes of the action space do not move a base, or have other units.
    """
    reason = unmeasured(space)
    if reason is not None:
        raise ProjectError(
            f"data.action: {reason}, so no path can be made of actions; leave the trajectory out."
        )
    actions = np.asarray(actions, dtype=np.float64)

    def axis(name: str) -> np.ndarray:
        return actions[:, space.names.index(name)] if name in space.names else np.zeros(len(actions))

    dt = space.control_period
    forward, left, angle = axis("linear_x") * dt, axis("linear_y") * dt, axis("angular_z") * dt
    along = np.sinc(angle / np.pi)  # sin a / a
    across = np.sin(angle / 2) * np.sinc(angle / (2 * np.pi))  # (1 − cos a) / a
    step_x, step_y = forward * along - left * across, forward * across + left * along
    yaw = np.concatenate([[0.0], np.cumsum(angle)])
    cos, sin = np.cos(yaw[:-1]), np.sin(yaw[:-1])
    x = np.concatenate([[0.0], np.cumsum(cos * step_x - sin * step_y)])
    y = np.concatenate([[0.0], np.cumsum(sin * step_x + cos * step_y)])
    return np.stack([x, y, yaw], axis=1)


def paths(predicted: np.ndarray, truth: Truth, space: ActionSpace) -> list[Paths]:
    """Both paths of every episode, in the order of `truth`; of each chunk `predicted` (S, H, A) SI the executed action.

    Raises:
        ProjectError: frames of an episode are missing or out of order, so its path has a hole.
    """
    out = []
    _, starts = np.unique(truth.episode, return_index=True)
    for rows in np.split(np.arange(len(truth.t)), np.sort(starts)[1:]):
        episode, t = str(truth.episode[rows[0]]), truth.t[rows]
        if (truth.episode[rows] != episode).any() or not np.array_equal(t, np.arange(len(t))):
            raise ProjectError(
                f"evaluation: episode {episode} has the frames {t.tolist()}, expected 0 to {len(t) - 1} without a gap; "
                "a path needs every frame."
            )
        recorded = integrate(truth.actions[rows, 0], space)
        guessed = integrate(predicted[rows, 0], space)
        out.append(Paths(episode, str(truth.group[rows[0]]), recorded, guessed))
    return out


def trajectory(predicted: np.ndarray, truth: Truth, space: ActionSpace, seed: int = 0) -> dict[str, object]:
    """The figures of all episodes; n counts episodes, intervals redraw groups.

    Returns:
        episodes: how many there are.
        path_length: m, mean length of the recorded path.
        final_position: m, mean distance between the two ends.
        final_heading: rad, mean angle between the two final headings, 0 to π; without n where no axis turns the base.
        path_deviation: m, mean distance of the two paths at the same step, then over episodes.
        paths: of the first episodes, `episode` and its `recorded` and `predicted` places [[x, y], …] in m, to draw.
        final_position_relative, path_deviation_relative: sum over episodes / sum of path lengths, so that an episode in
            which the robot hardly moves cannot blow the figure up; episodes of no length at all count nowhere.

    Raises:
        ProjectError: as `integrate` and `paths`.
    """
    both = paths(predicted, truth, space)
    _, group = np.unique([p.group for p in both], return_inverse=True)
    apart = [np.linalg.norm(p.predicted[1:, :2] - p.recorded[1:, :2], axis=1) for p in both]
    length = np.array([np.linalg.norm(np.diff(p.recorded[:, :2], axis=0), axis=1).sum() for p in both])
    final, deviation = np.array([d[-1] for d in apart]), np.array([d.mean() for d in apart])
    turn = np.array([p.predicted[-1, 2] - p.recorded[-1, 2] for p in both])
    heading = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    turns = "angular_z" in space.names

    def mean(values: np.ndarray) -> Estimate:
        return bootstrap_ratio(np.bincount(group, weights=values), np.bincount(group), seed, bounds=POSITIVE)

    return {
        "episodes": len(both),
        "path_length": mean(length),
        "final_position": mean(final),
        "final_heading": mean(heading) if turns else Estimate(None, None, None, 0, "bootstrap", 0),
        "path_deviation": mean(deviation),
        "final_position_relative": _relative(final, length, group, seed),
        "path_deviation_relative": _relative(deviation, length, group, seed),
        "paths": [
            {"episode": p.episode, "recorded": _places(p.recorded), "predicted": _places(p.predicted)}
            for p in both[:DRAWN]
        ],
    }


def _places(path: np.ndarray) -> list[list[float]]:
    """(T + 1, 3) poses -> places in m, to the millimetre."""
    places: list[list[float]] = path[:, :2].round(3).tolist()
    return places


def _relative(error: np.ndarray, length: np.ndarray, group: np.ndarray, seed: int) -> Estimate:
    """Sum of errors / sum of lengths, (E,) m each, over the episodes that have a length."""
    moved = length > 0
    _, index = np.unique(group[moved], return_inverse=True)
    errors, lengths = np.bincount(index, weights=error[moved]), np.bincount(index, weights=length[moved])

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray((weights @ errors) / (weights @ lengths))

    return bootstrap(statistic, len(errors), int(moved.sum()), seed, bounds=POSITIVE)
