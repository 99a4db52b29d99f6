"""Owns the question whether a LeRobot data set runs at the pace that it states: its time stamps against its fps.

In: a data set, and the period that a person declared, if any. Out: nothing where both agree; one sentence with both
figures where they do not, as a refusal, or as a remark in the log where a person has decided. An episode imported at
the wrong period drives at the wrong speed, and no loss shows it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.data.lerobot.layout import INFO
from src.data.lerobot.reader import LeRobotFolder

log = logging.getLogger(__name__)

TOLERANCE = 0.01
"""Share of the period by which the median step may differ. Writers round fps (29.97 as 30: 0.1 %) and jitter leaves the
median alone; a wrong fps is a factor (10 for 30). Chosen, not measured."""


class Pace:
    """Compares episode by episode.

    Args:
        folder: the data set.
        declared: foreign.control_period in s, None where info.json is believed.
    """

    def __init__(self, folder: LeRobotFolder, declared: float | None) -> None:
        self.folder, self.declared = folder, declared
        self._odd: list[tuple[Path, float, float]] = []

    def check(self, row: dict[str, Any], where: Path) -> None:
        """Compare the median step of one episode, a row of meta/episodes, with 1 / fps; `where` names it.

        Raises:
            ProjectError: they differ by more than `TOLERANCE` and nobody has declared the period.
        """
        times = np.asarray(self.folder.columns(row, ["timestamp"])["timestamp"])
        fps = self.folder.info["fps"]
        if len(times) < 2 or not isinstance(fps, (int, float)) or fps <= 0:
            return  # no step, or no fps: then foreign.control_period was needed to come here
        step, stated = float(np.median(np.diff(times.astype(np.float64)))), 1 / fps
        # float32 seconds of a long episode are coarse: two neighbours are off by up to one unit of the last place.
        coarse = float(np.spacing(np.abs(times).max())) if times.dtype.kind == "f" else 0.0
        if abs(step - stated) <= TOLERANCE * stated + coarse:
            return
        if self.declared is None:
            ours = self.folder.extra is not None
            raise ProjectError(
                f"{where}: its time stamps are {step:.4g} s apart (median), but {INFO} says fps={fps:g}, which is "
                f"{stated:.4g} s; "
                + ("it was changed since it was written, copy the data set again." if ours else
                   "find out which is true and set foreign.control_period to it.")
            )  # fmt: skip
        self._odd.append((where, step, stated))

    def report(self) -> None:
        """One line in the log for all episodes whose time stamps contradict fps under a declared period."""
        if self._odd:
            where, step, stated = self._odd[0]
            log.warning(
                "%d episodes have time stamps that contradict fps, e.g. %s: %.4g s apart (median), fps says %.4g s; "
                "foreign.control_period=%g s is taken",
                len(self._odd), where, step, stated, self.declared,
            )  # fmt: skip
