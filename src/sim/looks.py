"""Random appearance: floors, walls, light. Flows in: a random generator and whether the look is held out.

Every colour here is muted (low saturation), so colour words can only mean the objects. Training looks and held-out
looks come from disjoint palettes; the held-out ones also own one floor pattern that training never shows.
"""

from __future__ import annotations

import math

import numpy as np

from src.sim.scene import OBJECT_RGB, Look, Rgb

_TRAIN_FLOORS: tuple[tuple[Rgb, Rgb], ...] = (
    ((0.62, 0.60, 0.56), (0.50, 0.48, 0.45)),
    ((0.55, 0.56, 0.58), (0.44, 0.45, 0.47)),
    ((0.58, 0.52, 0.45), (0.49, 0.43, 0.36)),
    ((0.70, 0.69, 0.67), (0.58, 0.57, 0.56)),
    ((0.46, 0.47, 0.46), (0.37, 0.38, 0.37)),
)
_TRAIN_WALLS: tuple[Rgb, ...] = (
    (0.80, 0.78, 0.74),
    (0.72, 0.74, 0.76),
    (0.78, 0.74, 0.70),
    (0.68, 0.68, 0.66),
    (0.84, 0.83, 0.82),
)
_HELD_OUT_FLOORS: tuple[tuple[Rgb, Rgb], ...] = (
    ((0.45, 0.51, 0.55), (0.35, 0.41, 0.45)),
    ((0.60, 0.57, 0.62), (0.49, 0.46, 0.51)),
    ((0.33, 0.32, 0.31), (0.25, 0.24, 0.24)),
)
_HELD_OUT_WALLS: tuple[Rgb, ...] = ((0.60, 0.66, 0.62), (0.66, 0.62, 0.68), (0.55, 0.53, 0.50))


def _tint(rng: np.random.Generator, rgb: Rgb, amount: float) -> Rgb:
    """One common brightness change and a smaller one per channel, clipped to 0..1."""
    values = np.asarray(rgb) * (1 + rng.uniform(-amount, amount)) + rng.uniform(-amount, amount, 3) * 0.15
    r, g, b = np.clip(values, 0.0, 1.0).tolist()
    return (r, g, b)


def object_rgb(rng: np.random.Generator, colour: str) -> Rgb:
    """The named colour with a little paint variation, never near another name."""
    return _tint(rng, OBJECT_RGB[colour], 0.08)


def sample_look(rng: np.random.Generator, held_out: bool = False) -> Look:
    floors, walls = (_HELD_OUT_FLOORS, _HELD_OUT_WALLS) if held_out else (_TRAIN_FLOORS, _TRAIN_WALLS)
    patterns = ("tiles",) if held_out else ("checker", "planks", "speckle")
    floor_a, floor_b = floors[int(rng.integers(len(floors)))]
    wall = _tint(rng, walls[int(rng.integers(len(walls)))], 0.06)
    # The light stands behind the start, high, left or right of it: faces turned to the robot are lit.
    azimuth, elevation = math.pi + rng.uniform(-1.1, 1.1), rng.uniform(math.radians(45), math.radians(62))
    skirting = tuple(0.6 * channel for channel in wall)
    return Look(
        floor=patterns[int(rng.integers(len(patterns)))],
        floor_a=_tint(rng, floor_a, 0.08),
        floor_b=_tint(rng, floor_b, 0.08),
        floor_scale=float(rng.uniform(0.4, 0.9)),
        wall=wall,
        skirting=(skirting[0], skirting[1], skirting[2]),
        sky=_tint(rng, (0.88, 0.90, 0.92), 0.05),
        box=_tint(rng, (0.58, 0.42, 0.26), 0.10),
        pedestal=_tint(rng, (0.90, 0.90, 0.90), 0.07),
        light=(
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ),
        ambient=float(rng.uniform(0.56, 0.66)),
    )
