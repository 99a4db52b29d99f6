"""Owns what the figures of a report are called and how one is written, the same on the screen and on the page.

In: plain figures of report.json. Out: short English names and numbers such as `77 % (71–83)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

ABOUT = {
    "policy": "the trained policy",
    "expert": "knows the map, the best possible",
    "majority": "the most frequent action, always",
    "mean": "the mean action, always",
    "repeat_last": "the previous action again",
    "clock": "the mean action at this time step",
    "random": "any action",
    "straight": "straight ahead",
    "nearest": "the action of the most similar training frame",
    "nearest_words": "the same, among frames with the same words",
}
"""Driver → who that is; a driver without an entry has its name alone."""

DRIVEN = {
    "original": ("the right words, as told", "succeeds"),
    "named_object": ("the right words, an object reached", "it is the named one"),
    "swapped": ("left and right swapped in the words", "takes the other side"),
    "retargeted": ("another object of the room named", "goes to another object"),
    "shuffled": ("the words of another task", "still succeeds"),
    "blank": ("no words at all", "still succeeds"),
}
"""Probe in the simulator → what was changed, and the effect whose share is reported."""

DRIVEN_SHORT = {
    "swapped": "left and right swapped: follows",
    "retargeted": "another object named: follows",
    "shuffled": "words of another task: succeeds",
    "blank": "no words at all: succeeds",
}
"""The same for a narrow column."""

EFFECTS = {
    "obeyed_original": "obeys the right words",
    "obeyed_swapped": "obeys the swapped words",
    "passed": "both drives pass the boxes",
    "same_commands": "every command stays the same",
    "obeyed_retargeted": "reaches the object then named",
    "success_swapped": "succeeds by the swapped words",
    "drop": "success falls by",
}
"""Further figures of the probes in the simulator."""

RECORDED = {
    "other_instruction": "words of another meaning",
    "mirrored": "left and right exchanged",
    "no_instruction": "no words at all",
    "no_image": "the mean image",
    "other_image": "frames of another episode",
    "last_frame": "the newest frame alone",
    "shuffled_history": "earlier frames shuffled",
}
"""Probe on recorded frames → what was changed."""

DRIVING = {
    "success": ("success", True),
    "collision": ("collision", True),
    "timeout": ("time is up", True),
    "right_object": ("right object", True),
    "right_side": ("right side of the box", True),
    "spl": ("SPL, success weighted by path length", False),
    "path_length": ("path length (m)", False),
    "path_excess": ("path longer than the shortest by", True),
    "path_error": ("distance to the expert's path (m)", False),
    "steps": ("control steps", False),
}
"""Figure of a suite → its name, and whether it is a share."""

ANSWERS = {
    "yes": ("✓", "good"),
    "no": ("✕", "bad"),
    "not decided": ("?", "open"),
    "not measured": ("–", "soft"),
}
"""Answer of a verdict → its sign and its colour."""


def sign(key: str, answer: str) -> tuple[str, str]:
    """Sign and colour of an answer. That the history is not used is no fault: a task may need none."""
    return ("○", "soft") if (key, answer) == ("remembers", "no") else ANSWERS[answer]


def spell(key: str) -> str:
    """`path_deviation` → `path deviation`."""
    return key.replace("_", " ")


def effect(kind: str, key: str) -> str:
    """What the figure `key` of the driven probe `kind` counts."""
    if key in EFFECTS:
        return EFFECTS[key]
    return DRIVEN[kind][1] if kind in DRIVEN and key in ("changed", "success", kind) else spell(key)


def is_figure(item: object) -> bool:
    """Is this an `Estimate` in its plain form?"""
    return isinstance(item, Mapping) and {"value", "n", "interval"} <= item.keys()


def value_of(item: Any) -> float | None:
    """The number in a plain `Estimate`, or the number itself; None where nothing was measured."""
    value = item["value"] if is_figure(item) else item
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def count(estimate: Mapping[str, Any]) -> str:
    """`n=200`, or `n=113/6` where these 113 stand in 6 independent groups."""
    return f"n={estimate['n']}" + (f"/{estimate['clusters']}" if _grouped(estimate) else "")


def count_explained(cells: Iterable[Any]) -> str:
    """What the two numbers of `count` are, by the first figure among `cells` that has both; empty without one."""
    first = next((one for one in cells if is_figure(one) and _grouped(one)), None)
    if first is None:
        return ""
    return f"{count(first)}: {first['n']} counted in {first['clusters']} independent groups, which set the interval"


def _grouped(estimate: Mapping[str, Any]) -> bool:
    return estimate.get("clusters") not in (None, estimate["n"])


def number(estimate: Any, percent: bool = True) -> str:
    """`77 % (71–83)`, `6.6 % (6.2–7.0)` or `0.123 (0.110–0.140)`; a dash where nothing was measured.

    Percent get a decimal where the interval is narrower than 3 points, or where there is none and the value is small.
    """
    value = value_of(estimate)
    if value is None:
        return "–"
    ends = [value_of(estimate.get(end)) for end in ("low", "high")] if is_figure(estimate) else []
    known = [end for end in ends if end is not None]
    if percent:
        fine = known[1] - known[0] < 0.03 if len(known) == 2 else abs(value) < 0.1
        scale, form = 100, ".1f" if fine and value not in (0, 1) else ".0f"
    else:
        scale, form = 1, ".1f" if abs(value) >= 10 else ".3f"
    shown = f"{scale * value:{form}}" + (" %" if percent else "")
    spread = f" ({scale * known[0]:{form}}–{scale * known[1]:{form}})" if len(known) == 2 else ""
    return (shown + spread).replace("-", "−")


def seconds(value: float) -> str:
    """`42 s`, `8.1 min`, `2.3 h`."""
    if value < 120:
        return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"
