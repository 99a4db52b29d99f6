"""Owns the question where the policy looks: a patch of the mean image is slid over the picture.

In: a few recorded frames. Out: per frame a grid of how much the executed action changes while a cell is hidden, and a
picture with the grid laid over the frame. (Zeiler & Fergus 2014, arXiv:1311.2901, on the action instead of a class.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from src.core.files import atomic_path
from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.evaluation.probes.pieces import cut, executed, moved, spread
from src.model.policy import Policy

HEAT = np.array([235.0, 0.0, 200.0])  # magenta: no object, box or floor has it
STRONGEST = 0.75  # share of the heat's colour where the action changes most; the picture stays visible
SIDE = 288  # px of a written picture, at least


@dataclass(frozen=True)
class Occlusion:
    """One frame: `grid` (G, G) change of the executed action as a share of the half range, rows from the top;
    `frame` (3, h, w) uint8, the newest of its window."""

    episode: str
    t: int
    grid: np.ndarray
    frame: np.ndarray


def chosen(lengths: Mapping[str, int], count: int) -> list[tuple[str, int]]:
    """(episode, t) of up to `count` frames: episodes evenly over the sorted ids, later and later in their drive.

    `lengths`: episode id → T. The first frame shows an early step, the last one a late one, none the very ends.
    """
    names = spread(sorted(lengths), count)
    return [(name, (i + 1) * lengths[name] // (len(names) + 1)) for i, name in enumerate(names)]


def occlude(
    policy: Policy,
    loader: Iterable[Batch],
    frames: Sequence[tuple[str, int]],
    mean: Tensor,
    grid: int,
    space: ActionSpace,
    seed: int = 0,
) -> list[Occlusion]:
    """A map for each of `frames` (episode, t), in their order; reads `loader` until all are found.

    `mean` (3, h, w) uint8, what a hidden cell shows. A cell is hidden in every frame of the window: a policy with a
    memory would otherwise know from the frames before what stands there. Costs grid² + 1 windows per frame.
    """
    wanted, out = set(frames), {}
    for batch in loader:
        for i, key in enumerate(batch.keys):
            if key in wanted:
                wanted.discard(key)
                out[key] = _map(policy, cut(batch, [i]), mean, grid, space, seed)
        if not wanted:
            break
    return [out[key] for key in frames]


def _map(policy: Policy, batch: Batch, mean: Tensor, grid: int, space: ActionSpace, seed: int) -> Occlusion:
    before = executed(policy, batch, seed)
    height, width = batch.frames.shape[2:]
    rows, columns = edges(height, grid), edges(width, grid)
    changes = np.zeros((grid, grid))
    for i, j in np.ndindex(grid, grid):
        hidden = batch.frames.clone()
        cell = (..., slice(rows[i], rows[i + 1]), slice(columns[j], columns[j + 1]))
        hidden[cell] = mean[cell]
        changes[i, j] = moved(
            before, executed(policy, replace(batch, frames=hidden, origin=None), seed), space
        )[0]
    episode, t = batch.keys[0]
    return Occlusion(episode, t, changes, batch.frames[batch.windows[0, -1]].numpy())


def edges(side: int, grid: int) -> list[int]:
    """The grid + 1 borders, in px, of `grid` cells over `side` px; every pixel is in one cell."""
    return [int(edge) for edge in np.linspace(0, side, grid + 1).round()]


def overlay(found: Occlusion, scale: float) -> np.ndarray:
    """(h', w', 3) uint8: the frame, the more coloured the more a cell changes the action; `scale` is the change of full
    colour, the same for all pictures of a report so that they can be compared."""
    height, width = found.frame.shape[1:]
    rows, columns = edges(height, len(found.grid)), edges(width, len(found.grid))
    strength = np.zeros((height, width))
    for i, j in np.ndindex(*found.grid.shape):
        strength[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] = found.grid[i, j]
    alpha = (STRONGEST * np.clip(strength / scale, 0, 1))[..., None]
    mixed = (1 - alpha) * found.frame.transpose(1, 2, 0) + alpha * HEAT
    times = max(1, -(-SIDE // min(height, width)))
    return mixed.round().astype(np.uint8).repeat(times, axis=0).repeat(times, axis=1)


def write(folder: Path, found: Sequence[Occlusion], least: float) -> list[Path]:
    """One PNG per map below `folder`. `least`: the smallest change that is ever drawn in full colour, so that a blind
    policy's picture stays clear."""
    scale = max([least, *(float(one.grid.max()) for one in found)])
    paths = []
    for number, one in enumerate(found):
        path = folder / f"occlusion-{number}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(overlay(one, scale)).save(temporary, format="PNG")
        paths.append(path)
    return paths
