"""Owns the confusion matrix over direction classes: what the policy does instead of what was right.

In: recorded and predicted actions at the executed step. Out: counts (recorded × predicted) and, per class, recall and
precision with intervals. A clock or a majority shows here as a full column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.data.actions import ActionSpace
from src.evaluation.offline.scores import Truth
from src.evaluation.statistics import SHARE, Estimate, bootstrap_ratio


def confusion(predicted: np.ndarray, truth: Truth, space: ActionSpace, seed: int = 0) -> dict[str, object]:
    """The matrix of the executed action; `predicted` (S, H, A) SI.

    Returns:
        classes: K names in the order of the action space.
        counts: K × K whole numbers, row = class of the recorded action, column = class of the predicted one.
        recall: class → share of its recorded frames that were predicted so; classes never recorded are left out.
        precision: class → share of its predictions that were right; classes never predicted are left out.

    Raises:
        ProjectError: the action space has no classes.
    """
    called, true = space.classify(predicted[:, 0]), space.classify(truth.actions[:, 0])
    _, group = np.unique(truth.group, return_inverse=True)
    size = len(space.classes)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (true, called), 1)

    def share(among: np.ndarray) -> dict[str, Estimate]:
        out = {}
        for index, name in enumerate(space.class_names):
            rows = among == index
            if rows.any():
                right = rows & (called == true)
                sums = np.bincount(group, weights=right.astype(np.float64))
                total = np.bincount(group, weights=rows.astype(np.float64))
                out[name] = bootstrap_ratio(sums, total, seed, bounds=SHARE)
        return out

    return {
        "classes": list(space.class_names),
        "counts": counts.tolist(),
        "recall": share(true),
        "precision": share(called),
    }


def shares(counts: Sequence[Sequence[int]]) -> list[list[float | None]]:
    """K × K counts → the share of each row's frames; a class never recorded has None in its whole row."""
    totals = [sum(row) for row in counts]
    return [[n / total if total else None for n in row] for row, total in zip(counts, totals, strict=True)]
