"""Owns what a figure of run.json means in a table: its heading, which way is good, its unit, its bounds.

In: the name of a figure (`closed_loop/full1/layout/policy/success`) or of a cost. Out: its `Column` and its bounds.
The one place that knows; a figure that is not described here is refused, for a table must not guess what good is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NoReturn

from src.comparison.table import Column, Direction
from src.core.config import did_you_mean
from src.core.errors import ProjectError

SHARE, POSITIVE, ANY = (0.0, 1.0), (0.0, inf), (-inf, inf)


@dataclass(frozen=True)
class Figure:
    """One family of figures."""

    pattern: str
    """Regular expression of the whole name; its named groups fill the heading."""
    heading: str
    better: Direction | None
    unit: str = "%"
    """`%` multiplies by 100."""
    digits: int = 1
    bounds: tuple[float, float] = SHARE


_DRIVE = r"closed_loop/(?P<suite>[^/]+)/(?P<split>[^/]+)/(?P<driver>[^/]+)/"
_SWAP = r"probes/driven/(?P<probe>[^/]+)/"
_UNITS = {"linear_x": "m/s", "linear_y": "m/s", "angular_z": "rad/s"}

FIGURES = (
    Figure(rf"{_DRIVE}success", "success {where}", "max"),
    Figure(rf"{_DRIVE}collision", "collision {where}", "min"),
    Figure(rf"{_DRIVE}timeout", "timeout {where}", "min"),
    Figure(rf"{_DRIVE}right_object", "right object {where}", "max"),
    Figure(rf"{_DRIVE}right_side", "right side {where}", "max"),
    Figure(rf"{_DRIVE}spl", "SPL {where}", "max"),
    Figure(rf"{_DRIVE}path_excess", "path excess {where}", "min", bounds=POSITIVE),
    Figure(rf"{_DRIVE}path_error", "path error {where}", "min", "m", 3, POSITIVE),
    # A robot that crashes at once drives a short way in few steps: neither is good or bad by itself.
    Figure(rf"{_DRIVE}path_length", "path length {where}", None, "m", 2, POSITIVE),
    Figure(rf"{_DRIVE}steps", "steps {where}", None, "", 1, POSITIVE),
    Figure(r"offline/error", "error (% of half range)", "min", bounds=POSITIVE),
    Figure(r"offline/horizon/(?P<step>\d+)", "error at step {step} (% of half range)", "min", bounds=POSITIVE),
    Figure(r"offline/mae/(?P<axis>\w+)", "MAE {axis}", "min", "axis", 3, POSITIVE),
    Figure(r"offline/rmse/(?P<axis>\w+)", "RMSE {axis}", "min", "axis", 3, POSITIVE),
    Figure(r"offline/mae_horizon/(?P<axis>\w+)", "MAE {axis}, chunk", "min", "axis", 3, POSITIVE),
    Figure(r"offline/rmse_horizon/(?P<axis>\w+)", "RMSE {axis}, chunk", "min", "axis", 3, POSITIVE),
    Figure(r"offline/within_tolerance", "within tolerance", "max"),
    Figure(r"offline/direction_accuracy", "direction", "max"),
    Figure(r"offline/macro_f1", "macro F1", "max"),
    Figure(r"offline/confusion/recall/(?P<name>\w+)", "recall {name}", "max"),
    Figure(r"offline/confusion/precision/(?P<name>\w+)", "precision {name}", "max"),
    Figure(r"offline/trajectory/final_position", "final position", "min", "m", 3, POSITIVE),
    Figure(r"offline/trajectory/final_heading", "final heading", "min", "rad", 3, POSITIVE),
    Figure(r"offline/trajectory/path_deviation", "path deviation", "min", "m", 3, POSITIVE),
    Figure(r"offline/trajectory/final_position_relative", "final position, of the path", "min", bounds=POSITIVE),
    Figure(r"offline/trajectory/path_deviation_relative", "path deviation, of the path", "min", bounds=POSITIVE),
    Figure(r"offline/trajectory/path_length", "recorded path", None, "m", 2, POSITIVE),
    Figure(r"probes/driven/original/success", "success, probe's tasks", "max"),
    Figure(r"probes/driven/named_object", "named object", "max"),
    Figure(rf"{_SWAP}changed", "{probe}: changes", "max"),
    Figure(rf"{_SWAP}obeyed_original", "{probe}: obeys before", "max"),
    Figure(rf"{_SWAP}(?:obeyed_swapped|obeyed_retargeted)", "{probe}: obeys", "max"),
    Figure(rf"{_SWAP}success_swapped", "success, {probe} words", "max"),
    Figure(rf"{_SWAP}same_commands", "{probe}: same commands", "min"),
    Figure(rf"{_SWAP}passed", "{probe}: boxes passed", None),
    # Under foreign or no words success must fall, but a policy that never succeeds has little to lose.
    Figure(rf"{_SWAP}success", "success, {probe} words", None),
    Figure(rf"{_SWAP}drop/difference", "{probe}: success falls by", None, bounds=(-1.0, 1.0)),
    # How far an action moves under a changed input has no good direction: too much is as odd as nothing.
    Figure(r"probes/recorded/(?P<probe>\w+)/flip", "{probe}: flips", "max"),
    Figure(r"probes/recorded/(?P<probe>\w+)/change", "{probe}: action moves", None, bounds=POSITIVE),
    Figure(r"probes/recorded/(?P<probe>\w+)/error_rise/difference", "{probe}: error rises", None, bounds=ANY),
    Figure(r"best/val[/_]loss", "validation loss", "min", "", 4, ANY),
    # What other programs wrote to TensorBoard, for imported runs.
    Figure(r"(?P<part>train|val|test)[/_]loss(?:_epoch)?", "{part} loss at the end", "min", "", 4, ANY),
    Figure(r"best/epoch", "best epoch", None, "", 1, POSITIVE),
    Figure(r"best/step", "best step", None, "", 0, POSITIVE),
)  # fmt: skip

_COUNTED = (
    rf"{_DRIVE}(?:success|collision|timeout|right_object|right_side)"
    r"|probes/driven/(?!.*/difference$).+|probes/recorded/\w+/flip"
)
"""Shares of episodes or pairs, which the evaluation gives Wilson's interval."""

COSTS = (
    Column("trainable_parameters", "trainable (M)", None, 1e-6, 3, "cost"),
    Column("train_minutes", "training (min)", None, 1.0, 1, "cost"),
    Column("peak_memory_gb", "memory (GB)", None, 1.0, 2, "cost"),
    Column("latency_p50_ms", "step (ms)", None, 1.0, 1, "cost"),
)
"""Figures of run.json's `cost` that every table ends with."""


def column(name: str, measured: Iterable[str] = ()) -> Column:
    """The column of a figure; `measured`: names that the runs have, for advice.

    Raises:
        ProjectError: nobody has said what this figure means.
    """
    figure, words = _find(name, measured)
    heading = figure.heading.format(**words)
    unit = _UNITS.get(words.get("axis", ""), "") if figure.unit == "axis" else figure.unit
    if unit and "(" not in heading:
        heading += f" ({unit})"
    return Column(name, heading, figure.better, 100.0 if figure.unit == "%" else 1.0, figure.digits, "metric")


def bounds(name: str) -> tuple[float, float]:
    """What the figure can be at all, in the record's unit; an interval is cut there."""
    return _find(name, ())[0].bounds


def is_counted(name: str) -> bool:
    """Is it a share of yes/no trials, so that no spread below their binomial one is believed?"""
    return re.fullmatch(_COUNTED, name) is not None


def refuse_unmeasured(name: str, measured: Iterable[str]) -> NoReturn:
    """Say that no run has this figure, and which name is near.

    Raises:
        ProjectError: always.
    """
    known = sorted(set(measured))
    raise ProjectError(
        f"metrics: no run has a figure {name}{did_you_mean(name, known) or '.'} "
        "The names are those under `metrics` in run.json."
    )


def _find(name: str, measured: Iterable[str]) -> tuple[Figure, dict[str, str]]:
    for figure in FIGURES:
        match = re.fullmatch(figure.pattern, name)
        if match is not None:
            return figure, _words(match)
    if name in set(measured):
        raise ProjectError(
            f"metrics: {name} is measured, but no table knows which way is good; describe it in "
            "src/comparison/figures.py."
        )
    refuse_unmeasured(name, measured)


def _words(match: re.Match[str]) -> dict[str, str]:
    """The parts of a heading; the usual suite split `layout` and the driver `policy` go without saying."""
    words = {key: value.replace("_", " ") if key in ("probe", "name") else value
             for key, value in match.groupdict().items()}  # fmt: skip
    if "suite" in words:
        split = "" if words["split"] == "layout" else f"/{words['split']}"
        driver = "" if words["driver"] == "policy" else f", {words['driver'].replace('_', ' ')}"
        words["where"] = f"{words['suite']}{split}{driver}"
    return words
