"""Owns the one place where actions stored by the lab become actions of the project: axis order, signs, classes.

In: the stored columns and `LabOptions`. Out: forward, left, counter-clockwise (ROS REP-103); the axes that a run
uses; and what the stored class numbers say about them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.data.episode_checks import check_finite
from src.data.lab_keys import AXES, KEYS, UNITS
from src.data.layouts import LabOptions


def motion(stored: np.ndarray, options: LabOptions, where: str) -> np.ndarray:
    """Stored columns -> (T, 3) float32: m/s forward, m/s left, rad/s counter-clockwise.

    Args:
        stored: (T, columns) float, the columns as `options.axis_order` says; an axis without a column is zero.
        options: order and signs.
        where: names the file in the sentence of a ProjectError.
    """
    order = tuple(options.axis_order)
    if not np.issubdtype(stored.dtype, np.floating):
        raise ProjectError(
            f"{where}: 'actions' is {stored.dtype}, expected float; record or convert it again."
        )
    if stored.ndim != 2 or stored.shape[1] != len(order):
        raise ProjectError(
            f"{where}: 'actions' has shape {stored.shape}, expected (T, {len(order)}) {', '.join(order)}; convert the "
            "file, or set data.lab.axis_order to its columns."
        )
    check_finite(where, "actions", stored)
    actions = np.zeros((len(stored), len(AXES)), np.float32)
    signs = {"linear_x": 1, "linear_y": options.lateral_sign, "angular_z": options.rotation_sign}
    for column, axis in enumerate(order):
        actions[:, AXES.index(axis)] = signs[axis] * stored[:, column]
    return actions


def chosen(
    actions: np.ndarray, options: LabOptions, where: str
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """The axes of `options.axes` out of (T, 3): actions (T, A), their names and their units.

    Raises:
        ProjectError: an axis that is left out moves in this file, so its actions would lose what they mean.
    """
    axes = tuple(options.axes or AXES)
    for axis in (axis for axis in AXES if axis not in axes):
        moving = np.flatnonzero(actions[:, AXES.index(axis)])
        if len(moving):
            raise ProjectError(
                f"{where}: data.lab.axes leaves out {axis}, but {len(moving)} of {len(actions)} actions use it, first "
                f"at step {moving[0]}; choose an action space with {axis}, or move the file away."
            )
    return actions[:, [AXES.index(axis) for axis in axes]], axes, tuple(UNITS[axis] for axis in axes)


def names_of(actions: np.ndarray) -> list[str]:
    """(T, 3) -> the key class of each action."""
    return [KEYS.class_names[index] for index in KEYS.classify(actions)]


def compare_classes(
    numbers: np.ndarray, actions: np.ndarray, options: LabOptions, where: str
) -> tuple[str, tuple[str, ...]]:
    """What the stored class numbers say, compared with the class of each action, which alone is used.

    The files do not say what their numbers mean. If `options.class_names` does, a single difference is an error: then
    the table, an axis or a sign is declared wrongly. If not, the numbers are kept as a summary with a remark.

    Args:
        numbers: (T,) integers as stored.
        actions: (T, 3) from `motion`.
        options: `class_names` gives the numbers their meaning.
        where: names the file in the sentence of a ProjectError.

    Returns:
        "<number>=<class of the action> x<count>, …" and the remarks.
    """
    if numbers.shape != (len(actions),) or not np.issubdtype(numbers.dtype, np.integer):
        raise ProjectError(
            f"{where}: 'action_classes' is {numbers.dtype} {numbers.shape}, expected whole numbers ({len(actions)},) "
            "as there are actions; convert the file or move it away."
        )
    computed = names_of(actions)
    pairs = Counter(zip((int(number) for number in numbers), computed, strict=True))
    summary = ", ".join(f"{number}={name} x{count}" for (number, name), count in sorted(pairs.items()))
    names = options.class_names
    if names is None:
        remarks = ["action_classes are left aside, data.lab.class_names does not say what they mean"]
        if len({number for number, _ in pairs}) < len(pairs):
            remarks.append("one number of action_classes stands for actions of several directions")
        return summary, tuple(remarks)
    for step, (number, name) in enumerate(zip(numbers, computed, strict=True)):
        stored = names[number] if 0 <= number < len(names) else None
        if stored != name:
            raise ProjectError(
                f"{where}: action_classes is {number} ({_named(stored)}) at step {step}, but the action there is "
                f"'{name}' (the file has {summary}); correct data.lab.class_names, axis_order or the signs, or set "
                "class_names to null to leave the stored classes aside."
            )
    return summary, ()


def _named(name: Any) -> str:
    return "beyond the list" if name is None else f"'{name}'"
