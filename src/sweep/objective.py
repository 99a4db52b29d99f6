"""Owns what a search wants: figures of a run, and which way is better.

In: {metric, direction} nodes of the config and the figures that a run returns. Out: the values of a trial.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from src.core.errors import ProjectError

DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class Objective:
    """A figure of a run, e.g. `best/val/loss`, and whether to `minimize` or `maximize` it."""

    metric: str
    direction: str


def read_objectives(nodes: Sequence[Any], key: str) -> list[Objective]:
    """The objectives that `key` of the config names.

    Raises:
        ProjectError: none, a key too much or too little, another direction, a metric twice.
    """
    found = []
    for node in nodes:
        if not isinstance(node, Mapping) or set(node) != {"metric", "direction"}:
            raise ProjectError(f"{key}: found {node}, expected {{metric: …, direction: minimize|maximize}}.")
        if node["direction"] not in DIRECTIONS:
            raise ProjectError(
                f"{key}: found the direction {node['direction']} of {node['metric']}, expected minimize or maximize."
            )
        found.append(Objective(str(node["metric"]), str(node["direction"])))
    if not found:
        raise ProjectError(f"{key}: found nothing, expected at least one {{metric: …, direction: …}}.")
    if len({objective.metric for objective in found}) < len(found):
        raise ProjectError(f"{key}: found a metric twice, expected each once; remove one.")
    return found


def values_of(figures: Any, objectives: Sequence[Objective]) -> list[float]:
    """The values of a trial in the order of the objectives; NaN stays NaN.

    Raises:
        ProjectError: the run returned no such figure.
    """
    if not isinstance(figures, Mapping):
        raise ProjectError(
            f"hydra.sweeper.objectives: the run returned {figures!r}, expected a mapping of figures; return one."
        )
    values = []
    for objective in objectives:
        if objective.metric not in figures:
            near = difflib.get_close_matches(objective.metric, list(figures), n=3, cutoff=0.4)
            near = near or sorted(figures)[:5]
            raise ProjectError(
                f"hydra.sweeper.objectives: the run returned no {objective.metric}, expected one of its "
                f"{len(figures)} figures, nearest: {', '.join(near) or 'none'}; correct the metric and start again, "
                "the trained runs are kept."
            )
        value = figures[objective.metric]
        values.append(float("nan") if value is None else float(value))
    return values
