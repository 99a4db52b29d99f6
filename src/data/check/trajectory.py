"""Owns open-loop integration: where a robot would go if its commanded velocities were carried out exactly.

In: (T, A) velocities in SI units, axis names, the control period. Out: (T + 1, 3) poses, and a word for the path.
Slip and disturbance are not in it; it is for looking at data, not for judging a policy.
"""

from collections.abc import Sequence

import numpy as np

BEND = 0.1
"""A drive that leaves the straight line by less than this share of its length counts as straight."""


def integrate(actions: np.ndarray, names: Sequence[str], period: float) -> np.ndarray:
    """Poses x m, y m, yaw rad, from (0, 0, 0), each command held for one period.

    x is forward and y is left of the start (REP-103). The heading within a step is taken at its middle, which is exact
    for the direction of the chord of a circular arc. An axis that the base does not have counts as zero.

    Args:
        actions: (T, A) in m/s and rad/s.
        names: (A,) axis names; linear_x, linear_y and angular_z are used.
        period: seconds per step.

    Returns:
        (T + 1, 3) float64.
    """
    columns = {name: np.asarray(actions, np.float64)[:, i] for i, name in enumerate(names)}
    nothing = np.zeros(len(actions))
    forward, left, turn = (
        columns.get(name, nothing) * period for name in ("linear_x", "linear_y", "angular_z")
    )
    yaw = np.concatenate([[0.0], np.cumsum(turn)])
    middle = yaw[:-1] + turn / 2
    x = np.cumsum(forward * np.cos(middle) - left * np.sin(middle))
    y = np.cumsum(forward * np.sin(middle) + left * np.cos(middle))
    return np.column_stack([np.concatenate([[0.0], x]), np.concatenate([[0.0], y]), yaw])


def path_word(poses: np.ndarray) -> str:
    """ "left", "right" or "straight": the side of the largest distance from the line straight ahead."""
    length = float(np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1).sum())
    aside = float(poses[np.argmax(np.abs(poses[:, 1])), 1])
    if abs(aside) <= BEND * length:
        return "straight"
    return "left" if aside > 0 else "right"
