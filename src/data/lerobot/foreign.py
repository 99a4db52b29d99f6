"""Owns what a LeRobot data set of somebody else leaves open: axes, units, period, camera, scenario.

In: `ForeignOptions` and meta/info.json. Out: `Facts`, complete, or one sentence naming the option that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from src.core.errors import ProjectError


@dataclass(frozen=True)
class ForeignOptions:
    """Facts for data sets without meta/mobile_vla.json; None takes what info.json says, where it says it.

    Args:
        action_names: (A,) the axes' names here, e.g. [linear_x, angular_z]; None takes LeRobot's names.
        action_units: (A,) SI units; LeRobot has no place for them, so they are always needed.
        action_from: (A,) which of LeRobot's action entries each axis is, by name or number; None: all, in order.
        action_scale: (A,) factors to these units, e.g. 0.0174533 for deg/s; None: 1.
        control_period: seconds between steps; None: 1 / fps, refused where time stamps contradict it (pace.py).
        camera_key: the camera, e.g. observation.images.front; None where there is only one.
        scenario: one label for all episodes; None labels them by task, task_000 …
    """

    action_names: list[str] | None = None
    action_units: list[str] | None = None
    action_from: list[str | int] | None = None
    action_scale: list[float] | None = None
    control_period: float | None = None
    camera_key: str | None = None
    scenario: str | None = None


@dataclass(frozen=True)
class Facts:
    """How to read the rows: `entries` and `scale` (A,) turn a row of LeRobot's action into ours."""

    camera: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    entries: tuple[int, ...]
    scale: np.ndarray
    control_period: float


def foreign_facts(where: str, info: dict[str, Any], options: ForeignOptions) -> Facts:
    """Everything that reading needs, from info.json and the options; `where` names the data set in sentences."""
    table = info["features"]
    if "action" not in table or len(table["action"].get("shape", ())) != 1:
        raise ProjectError(
            f"{where}: features has no one-dimensional 'action', so there is nothing to learn from."
        )
    width = int(table["action"]["shape"][0])
    stored = _flat_names(table["action"].get("names"), width)
    entries = _entries(where, stored, width, options.action_from)
    names = options.action_names
    if names is None:
        if stored is None:
            raise ProjectError(
                f"{where} does not name its {width} action entries; set foreign.action_names, one per axis."
            )
        names = [stored[entry] for entry in entries]
    if options.action_units is None:
        raise ProjectError(
            f"{where} says no units of its actions {names}; set foreign.action_units, e.g. [m/s, rad/s]."
        )
    scale = [1.0] * len(entries) if options.action_scale is None else options.action_scale
    for key, values in (("names", names), ("units", options.action_units), ("scale", scale)):
        if len(values) != len(entries):
            raise ProjectError(
                f"foreign.action_{key} has {len(values)} values for {len(entries)} action entries "
                f"{_shown(stored, entries)}; give one each, or choose entries with foreign.action_from."
            )
    period = options.control_period
    if period is None:
        fps = info["fps"]
        if not isinstance(fps, (int, float)) or fps <= 0:
            raise ProjectError(f"{where}: fps is {fps!r}; set foreign.control_period in seconds.")
        period = 1 / fps
    return Facts(
        camera=_camera(where, table, options.camera_key),
        names=tuple(names),
        units=tuple(options.action_units),
        entries=tuple(entries),
        scale=np.asarray(scale, np.float64),
        control_period=float(period),
    )


def _flat_names(names: Any, width: int) -> list[str] | None:
    """LeRobot's names of the entries: a list, or one list inside a dict; None where they do not fit the width."""
    if isinstance(names, dict):
        inner = list(names.values())
        names = inner[0] if len(inner) == 1 and isinstance(inner[0], list) else list(names)
    if isinstance(names, list) and len(names) == width:
        return [str(name) for name in names]
    return None


def _entries(where: str, stored: list[str] | None, width: int, wanted: list[str | int] | None) -> list[int]:
    if wanted is None:
        return list(range(width))
    entries = []
    for entry in wanted:
        known = stored or []
        number = entry if isinstance(entry, int) else known.index(entry) if entry in known else -1
        if not 0 <= number < width:
            has = stored if stored is not None else f"{width} without names, 0 to {width - 1}"
            raise ProjectError(
                f"foreign.action_from has {entry!r}, but {where} has the action entries {has}."
            )
        entries.append(number)
    return entries


def _camera(where: str, table: dict[str, Any], wanted: str | None) -> str:
    cameras = [key for key, feature in table.items() if feature.get("dtype") in ("image", "video")]
    if wanted is None:
        if len(cameras) == 1:
            return cameras[0]
        raise ProjectError(
            f"{where} has {len(cameras)} cameras, {cameras}; set foreign.camera_key to one of them."
        )
    if wanted not in cameras:
        raise ProjectError(f"foreign.camera_key is {wanted!r}, but {where} has the cameras {cameras}.")
    return wanted


def _shown(stored: list[str] | None, entries: list[int]) -> list[Any]:
    return [stored[entry] for entry in entries] if stored is not None else list(entries)
