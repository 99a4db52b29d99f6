"""Owns the comparison of predicted with recorded actions on held-out episodes.

In: a policy and a loader of batches. Out: errors in SI units at the action that would be executed (horizon index 0),
over the whole horizon and at each step of it, direction accuracy, within-tolerance share, class macro-F1, per scenario.
Intervals redraw whole groups of episodes, because frames of one drive are not independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.evaluation.statistics import POSITIVE, SHARE, Estimate, bootstrap, bootstrap_ratio
from src.model.policy import Policy


@dataclass(frozen=True)
class Truth:
    """What was recorded at S frames, in a fixed order (by episode, then time)."""

    episode: np.ndarray  # (S,) str, the episode id
    t: np.ndarray  # (S,) int, frame index within the episode
    actions: np.ndarray  # (S, H, A) float, SI units
    mask: np.ndarray  # (S, H) bool, False beyond the end of the episode
    group: np.ndarray  # (S,) str, near-duplicate episodes share it
    scenario: np.ndarray  # (S,) str


@dataclass(frozen=True)
class Labels:
    """Scenario and group of an episode; the group is the split's, in which near-duplicates are joined."""

    scenario: str
    group: str


def collect(
    policy: Policy,
    loader: Iterable[Batch],
    labels: Mapping[str, Labels],
    change: Callable[[Batch], Batch] | None = None,
    seed: int = 0,
) -> tuple[Truth, np.ndarray]:
    """Run the policy over every batch: what was recorded and what it predicts (S, H, A) in SI units.

    `change` alters each batch first (a probe: other instruction, other image). Rows come sorted by episode
    and time, so two calls line up row by row whatever order the loader takes. Heads that sample start from
    `seed` each time, so a probe measures the change of the input and not of the dice.
    """
    policy.eval()
    device = next(policy.parameters()).device
    keys: list[tuple[str, int]] = []
    predicted, actions, masks = [], [], []
    with torch.inference_mode(), seeded(seed, device):
        for batch in loader:
            given = batch if change is None else change(batch)
            predicted.append(policy.predict(given.to(device)).float().cpu().numpy())
            actions.append(batch.actions.numpy())
            masks.append(batch.action_mask.numpy())
            keys += batch.keys
    if not keys:
        raise ProjectError(
            "evaluation: the held-out split has no frames; collect more episodes or raise the share of the split"
        )
    order = sorted(range(len(keys)), key=lambda i: keys[i])
    if len(set(keys)) != len(keys):
        raise ProjectError("evaluation: the loader served a frame twice, so the scores would count it twice")
    unknown = sorted({episode for episode, _ in keys} - set(labels))
    if unknown:
        raise ProjectError(f"evaluation: episode {unknown[0]} was served but is not listed in the split")
    truth = Truth(
        episode=np.array([keys[i][0] for i in order]),
        t=np.array([keys[i][1] for i in order], dtype=np.int64),
        actions=np.concatenate(actions)[order],
        mask=np.concatenate(masks)[order],
        group=np.array([labels[keys[i][0]].group for i in order]),
        scenario=np.array([labels[keys[i][0]].scenario for i in order]),
    )
    return truth, np.concatenate(predicted)[order]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's random numbers start from `seed` inside the block and go on undisturbed after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def mean_frame(loader: Iterable[Batch]) -> torch.Tensor:
    """The mean image (3, h, w) uint8 of all frames: what is left of a picture when nothing is seen in it."""
    total: torch.Tensor | None = None
    count = 0
    for batch in loader:
        part = batch.frames.sum(dim=0, dtype=torch.float64)
        total = part if total is None else total + part
        count += len(batch.frames)
    if total is None:
        raise ProjectError("evaluation: no frames to average")
    return (total / count).round().to(torch.uint8)


def without_image(mean: torch.Tensor) -> Callable[[Batch], Batch]:
    """Probe: every frame becomes the mean frame (3, h, w)."""
    return lambda batch: dataclasses.replace(
        batch, frames=mean.expand_as(batch.frames).contiguous(), origin=None
    )


def half_range(space: ActionSpace) -> np.ndarray:
    """(A,) half the width of each axis's limits, in SI units: the scale on which axes are comparable."""
    return (np.array(space.high) - np.array(space.low)) / 2


def frame_error(predicted: np.ndarray, truth: Truth, space: ActionSpace) -> np.ndarray:
    """(S,) mean over axes of the absolute error of the executed action, as a share of each axis's half range."""
    return np.mean(np.abs(predicted[:, 0] - truth.actions[:, 0]) / half_range(space), axis=1)


def select(truth: Truth, rows: np.ndarray) -> Truth:
    """The recording at some frames only; `rows`: (S,) bool or indices."""
    return Truth(**{f.name: getattr(truth, f.name)[rows] for f in dataclasses.fields(truth)})


def by_group(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """(S,) values → (G,) mean per group, groups in sorted order: the independent units of a paired test."""
    _, index = np.unique(group, return_inverse=True)
    return np.bincount(index, weights=values) / np.bincount(index)


def score(
    predicted: np.ndarray,
    truth: Truth,
    space: ActionSpace,
    tolerance: float,
    seed: int = 0,
    per_scenario: bool = True,
) -> dict[str, object]:
    """All offline figures of `predicted` (S, H, A) SI against the recording; `tolerance` as share of half range.

    Returns nested dictionaries of `Estimate`s: `mae`, `rmse`, `mae_horizon`, `rmse_horizon` per axis in SI units,
    `error` (mean over axes, share of half range), `within_tolerance`, and, where the action space has classes,
    `direction_accuracy` and `macro_f1`.
    """
    groups, index = np.unique(truth.group, return_inverse=True)
    clusters = len(groups)

    def ratio(
        values: np.ndarray,
        counts: np.ndarray | None = None,
        root: bool = False,
        bounds: tuple[float, float] = POSITIVE,
    ) -> Estimate:
        counts = np.ones(len(values)) if counts is None else counts
        sums = np.bincount(index, weights=values, minlength=clusters)
        n = np.bincount(index, weights=counts, minlength=clusters)
        return bootstrap_ratio(sums, n, seed, transform=np.sqrt if root else None, bounds=bounds)

    error = predicted - truth.actions
    now = error[:, 0]
    whole = np.where(truth.mask[..., None], error, 0.0)
    valid = truth.mask.sum(axis=1).astype(np.float64)
    within = np.all(np.abs(now) <= tolerance * half_range(space), axis=1)
    axes = list(enumerate(space.names))
    out: dict[str, object] = {
        "n": len(truth.t),
        "groups": clusters,
        "error": ratio(frame_error(predicted, truth, space)),
        "mae": {name: ratio(np.abs(now[:, a])) for a, name in axes},
        "rmse": {name: ratio(now[:, a] ** 2, root=True) for a, name in axes},
        "mae_horizon": {name: ratio(np.abs(whole[..., a]).sum(axis=1), valid) for a, name in axes},
        "rmse_horizon": {name: ratio((whole[..., a] ** 2).sum(axis=1), valid, root=True) for a, name in axes},
        "within_tolerance": ratio(within.astype(np.float64), bounds=SHARE),
    }
    if space.classes:
        called, true = space.classify(predicted[:, 0]), space.classify(truth.actions[:, 0])
        out["direction_accuracy"] = ratio((called == true).astype(np.float64), bounds=SHARE)
        out["macro_f1"] = macro_f1(called, true, index, len(space.classes), seed)
    if per_scenario:
        out["scenarios"] = {
            str(name): _scenario(predicted, truth, space, tolerance, seed, truth.scenario == name)
            for name in np.unique(truth.scenario)
        }
    return out


def point_scores(predicted: np.ndarray, truth: Truth, space: ActionSpace) -> dict[str, float]:
    """`error` and, where the action space has classes, `direction_accuracy`, without intervals: in milliseconds."""
    out = {"error": float(frame_error(predicted, truth, space).mean())}
    if space.classes:
        right = space.classify(predicted[:, 0]) == space.classify(truth.actions[:, 0])
        out["direction_accuracy"] = float(right.mean())
    return out


def over_horizon(
    predicted: np.ndarray, truth: Truth, space: ActionSpace, seed: int = 0
) -> dict[str, Estimate]:
    """`error` (mean over axes, share of half range) at each step of the chunk: "1" is the executed action, "2" the one
    after it, … H. Steps beyond the end of an episode count nowhere, so n falls from step to step."""
    _, index = np.unique(truth.group, return_inverse=True)
    error = np.mean(np.abs(predicted - truth.actions) / half_range(space), axis=2)  # (S, H)
    out = {}
    for step in range(error.shape[1]):
        valid = truth.mask[:, step]
        sums = np.bincount(index, weights=np.where(valid, error[:, step], 0.0))
        counts = np.bincount(index, weights=valid.astype(np.float64))
        out[str(step + 1)] = bootstrap_ratio(sums, counts, seed, bounds=POSITIVE)
    return out


def _scenario(
    predicted: np.ndarray, truth: Truth, space: ActionSpace, tolerance: float, seed: int, rows: np.ndarray
) -> dict[str, object]:
    return score(predicted[rows], select(truth, rows), space, tolerance, seed, per_scenario=False)


def macro_f1(
    predicted: np.ndarray, true: np.ndarray, cluster: np.ndarray, classes: int, seed: int = 0
) -> Estimate:
    """Mean F1 over the classes that occur in the recording; `predicted`, `true`, `cluster`: (S,) int.

    The bootstrap redraws clusters through their confusion matrices. A class absent from a redraw drops out of it.
    """
    clusters = int(cluster.max()) + 1
    flat = (cluster * classes + true) * classes + predicted
    confusion = (
        np.bincount(flat, minlength=clusters * classes * classes).reshape(clusters, -1).astype(np.float64)
    )

    def statistic(weights: np.ndarray) -> np.ndarray:
        matrix = (weights @ confusion).reshape(-1, classes, classes)  # (R, true, predicted)
        hits = np.diagonal(matrix, axis1=1, axis2=2)
        support, called = matrix.sum(axis=2), matrix.sum(axis=1)
        f1 = 2 * hits / np.maximum(support + called, 1e-12)
        present = support > 0
        return (f1 * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1)

    return bootstrap(statistic, clusters, len(true), seed, bounds=SHARE)
