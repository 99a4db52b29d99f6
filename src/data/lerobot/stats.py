"""Owns the statistics that LeRobot keeps per feature, per episode and over the data set.

In: the numbers and frames of each episode. Out: {feature: {min, max, mean, std, count, q01 … q99}} as plain lists.
Frames count per channel in [0, 1] with shape (3, 1, 1), as LeRobot does. Ours are exact: LeRobot estimates image
statistics from a sample of small frames and averages quantiles over episodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
"""LeRobot's names and levels (lerobot 0.4.4, compute_stats.py)."""
Stats = dict[str, Any]


def column_stats(values: np.ndarray) -> Stats:
    """Statistics of one feature: values (n, d), or (n,) for a scalar; every entry is a list of d numbers."""
    table = np.asarray(values, np.float64).reshape(len(values), -1)
    found = {
        "min": table.min(axis=0),
        "max": table.max(axis=0),
        "mean": table.mean(axis=0),
        "std": table.std(axis=0),
    }
    stats: Stats = {name: value.tolist() for name, value in found.items()}
    stats["count"] = [len(table)]
    for name, row in zip(QUANTILES, np.quantile(table, list(QUANTILES.values()), axis=0), strict=True):
        stats[name] = row.tolist()
    return stats


def histogram(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8 -> (3, 256) int64 counts of every level in every channel; adds up over episodes."""
    return np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)]).astype(np.int64)


def frame_stats(counts: np.ndarray, frames: int) -> Stats:
    """Statistics of the pixels behind a histogram (3, 256) of `frames` frames, scaled to [0, 1]."""
    levels = np.arange(256) / 255
    total = counts.sum(axis=1)
    mean = counts @ levels / total
    square = counts @ levels**2 / total
    seen = counts > 0
    found = {
        "min": levels[seen.argmax(axis=1)],
        "max": levels[255 - seen[:, ::-1].argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
    }
    below = counts.cumsum(axis=1)
    for name, level in QUANTILES.items():
        # The smallest level with at least this share of the pixels at or below it.
        found[name] = levels[(below >= np.ceil(level * total)[:, None]).argmax(axis=1)]
    stats: Stats = {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()}
    stats["count"] = [frames]
    return stats
