"""Owns what must hold for any episode, whether it is written, opened from an own file or read from the lab's layouts.

In: the parts of an episode and the words that name it. Out: nothing, or one sentence that says what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from src.core.errors import ProjectError


def check_arrays(
    where: str, steps: int, actions: np.ndarray, timestamps: np.ndarray | None, poses: np.ndarray | None
) -> None:
    """Raise a ProjectError unless actions (T, A), timestamps (T,) and poses (T, 3) are finite and T steps long."""
    if actions.ndim != 2 or not actions.shape[1] or not np.issubdtype(actions.dtype, np.floating):
        raise ProjectError(f"{where}: actions are {actions.dtype} {actions.shape}, expected float (T, A).")
    for name, array, shape in (
        ("actions", actions, (steps, actions.shape[1])),
        ("timestamps", timestamps, (steps,)),
        ("poses", poses, (steps, 3)),
    ):
        if array is None:
            continue
        if array.shape != shape:
            raise ProjectError(
                f"{where}: {name} have shape {array.shape}, expected {shape} for {steps} frames."
            )
        if not np.issubdtype(array.dtype, np.floating):
            raise ProjectError(f"{where}: {name} are {array.dtype}, expected float.")
        check_finite(where, name, array)


def check_finite(where: str, name: str, array: np.ndarray) -> None:
    """Raise a ProjectError that names the first step, axis 0 of `array`, that holds NaN or infinity."""
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ProjectError(
            f"{where}: {name} hold NaN or infinity, first at step {bad[0][0]}; record it again."
        )


def check_labels(
    where: str,
    axes: int,
    action_names: Sequence[str],
    action_units: Sequence[str],
    instructions: Sequence[str],
    control_period: float,
    **labels: str,
) -> None:
    """Raise a ProjectError unless names and units fit A `axes`, no sentence is empty, the period is in seconds above
    zero and no label (id, scenario, group) is empty. There may be no sentence at all."""
    if not len(action_names) == len(action_units) == axes:
        raise ProjectError(
            f"{where}: {axes} action axes, but names {list(action_names)} "
            f"and units {list(action_units)}; give one of each per axis."
        )
    if not all(isinstance(t, str) and t.strip() for t in instructions):
        raise ProjectError(
            f"{where}: instructions are {instructions!r}, expected sentences; write the file again."
        )
    for name, value in labels.items():
        if not value:
            raise ProjectError(f"{where}: {name} is empty; every episode needs one.")
    if not (math.isfinite(control_period) and control_period > 0):
        raise ProjectError(f"{where}: control_period is {control_period}, expected seconds above zero.")
