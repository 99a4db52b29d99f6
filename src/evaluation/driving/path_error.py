"""Owns how far a driven path lies from the expert's path of the same task, in metres.

In: two polylines, or rollouts of the same tasks. Out: a distance per pair, and an `Estimate` over pairs.

The distance is symmetric: the mean distance from the points of one path to the other path, and the other way round,
averaged (the symmetrised segment-path distance, SSPD, of Besse et al. 2015, arXiv:1508.04904). One direction alone
would call a robot perfect that stops after the first metre, because what it drove lies on the expert's path. Points
are taken every few centimetres along the path and not at every step, so that standing still weighs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.evaluation.driving.closed_loop import Rollout
from src.evaluation.statistics import POSITIVE, Estimate, bootstrap_mean

SPACING = (
    0.05  # m between the points of a path; a tenth of the reach radius, well below any figure of interest
)


def path_error(driven: Sequence[Rollout], expert: Sequence[Rollout], seed: int = 0) -> Estimate:
    """Mean over tasks of the distance (m) to the expert's path; `driven` and `expert` are of the same tasks.

    A task at which the expert itself failed has no path to compare with and takes no part, as `n` shows.
    """
    pairs = [(a, b) for a, b in zip(driven, expert, strict=True) if b.outcome.success]
    values = [path_distance(a.poses[:, :2], b.poses[:, :2]) for a, b in pairs]
    return bootstrap_mean(np.array(values, dtype=np.float64), seed, bounds=POSITIVE)


def path_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Symmetric distance (m) of two polylines (N, 2) and (M, 2) in m; 0 for equal ones."""
    return (one_way(first, second) + one_way(second, first)) / 2


def one_way(path: np.ndarray, other: np.ndarray) -> float:
    """Mean distance (m) from the points along `path` (N, 2) to the polyline `other` (M, 2)."""
    return float(_to_polyline(resampled(path), other).mean())


def resampled(path: np.ndarray, spacing: float = SPACING) -> np.ndarray:
    """Points (K, 2) evenly spaced along a polyline (N, 2), its ends included, at most `spacing` m apart."""
    steps = np.hypot(*np.diff(path, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    if along[-1] == 0:
        return path[:1]
    places = np.linspace(0.0, along[-1], max(2, int(np.ceil(along[-1] / spacing)) + 1))
    return np.stack([np.interp(places, along, path[:, axis]) for axis in (0, 1)], axis=1)


def _to_polyline(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """(K,) distance (m) of points (K, 2) to the nearest place on a polyline (M, 2)."""
    if len(path) == 1:
        return np.hypot(*(points - path[0]).T)
    start, leg = path[:-1], np.diff(path, axis=0)
    square = np.maximum((leg**2).sum(axis=1), 1e-18)  # a step on the spot is a point
    along = np.clip(np.einsum("kmd,md->km", points[:, None] - start, leg) / square, 0.0, 1.0)
    nearest = start + along[..., None] * leg
    return np.hypot(*np.moveaxis(points[:, None] - nearest, -1, 0)).min(axis=1)
