"""Owns the drawings of the check's page: trajectories from above as inline SVG, bars of shares. Text in, text out.

Colours come from the page's style sheet (classes), so a drawing follows light and dark.
"""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from src.data.check.finding import percent


def trajectories(drives: Sequence[np.ndarray], side: int) -> str:
    """Paths (T, 2) in metres, x forward drawn upwards, y left drawn to the left, all at one scale, on a 1 m grid.

    Args:
        side: of the drawing in pixels.
    """
    points = np.concatenate([np.zeros((1, 2)), *[d for d in drives if len(d)]])
    low, high = points.min(axis=0), points.max(axis=0)
    span = max(1.0, float((high - low).max())) * 1.1
    middle = (low + high) / 2
    step = 1 if span <= 20 else 10 ** math.ceil(math.log10(span / 20))
    scale = side / span

    def place(xy: np.ndarray) -> np.ndarray:
        """Metres -> pixels: left of the robot is left in the drawing."""
        return np.column_stack(
            [side / 2 - (xy[:, 1] - middle[1]) * scale, side / 2 - (xy[:, 0] - middle[0]) * scale]
        )

    lines = []
    for axis in (0, 1):
        first = math.ceil((middle[axis] - span / 2) / step) * step
        for value in np.arange(first, middle[axis] + span / 2, step):
            at = side / 2 - (value - middle[axis]) * scale
            ends = (0, at, side, at) if axis == 0 else (at, 0, at, side)
            lines.append('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends))
    for drive in drives:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in place(drive))
        lines.append(f'<polyline class="drive" points="{path}"/>')
    x, y = place(np.zeros((1, 2)))[0]
    lines.append(f'<circle class="start" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
    return (
        f'<svg role="img" aria-label="trajectories from above" viewBox="0 0 {side} {side}" width="{side}" '
        f'height="{side}">{"".join(lines)}</svg>'
    )


def bars(shares: Mapping[str, float]) -> str:
    """One bar per name, as long as its share of the largest."""
    largest = max(shares.values(), default=0.0) or 1.0
    rows = "".join(
        f"<span>{html.escape(name)}</span><i style='width:{100 * share / largest:.1f}%'></i>"
        f"<span>{percent(share)}</span>"
        for name, share in shares.items()
    )
    return f"<div class=bars>{rows}</div>"
