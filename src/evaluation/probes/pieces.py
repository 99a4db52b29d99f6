"""Owns cutting batches: some episodes, or one sample, as a batch of its own that can be altered and asked again.

In: packed batches. Out: smaller packed batches, and the policy's answer to them. Variants are asked one by one, from
the same seed: a head that samples throws the same dice for each, so a difference is the input's and not the dice's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from src.data.actions import ActionSpace
from src.data.batch import PADDING, Batch
from src.evaluation.offline.scores import half_range, seeded
from src.model.policy import Policy


def cut(batch: Batch, samples: Sequence[int]) -> Batch:
    """These samples with their frames and their sentences alone, in this order."""
    windows = batch.windows[list(samples)]
    rows, index = torch.unique(windows[windows >= 0], return_inverse=True)
    placed = torch.full_like(windows, PADDING)
    placed[windows >= 0] = index
    owners, episode = torch.unique(batch.episode[rows], return_inverse=True)
    ids, mask = batch.instruction_ids[owners], batch.instruction_mask[owners]
    real = mask.any(dim=0)
    return replace(
        batch,
        frames=batch.frames[rows],
        episode=episode,
        instruction_ids=ids[:, real],
        instruction_mask=mask[:, real],
        windows=placed,
        actions=batch.actions[list(samples)],
        action_mask=batch.action_mask[list(samples)],
        keys=[batch.keys[i] for i in samples],
        origin=None if batch.origin is None else batch.origin[rows],
    )


def of_episode(batch: Batch, episode: str) -> Batch:
    """All samples of one episode of the batch."""
    return cut(batch, [i for i, (name, _) in enumerate(batch.keys) if name == episode])


def of_episodes(loader: Iterable[Batch], episodes: Collection[str]) -> Iterator[Batch]:
    """The batches of `loader`, cut down to these episodes; those that hold none of them are left out."""
    for batch in loader:
        samples = [i for i, (name, _) in enumerate(batch.keys) if name in episodes]
        if samples:
            yield batch if len(samples) == batch.size else cut(batch, samples)


def spread(items: Sequence[str], count: int) -> list[str]:
    """Up to `count` of `items`, evenly from the first to the last."""
    if count < 1:
        return []
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in np.unique(places)]


def executed(policy: Policy, batch: Batch, seed: int) -> np.ndarray:
    """(S, A) SI, the actions the policy would carry out; heads that sample start from `seed`."""
    device = next(policy.parameters()).device
    with torch.inference_mode(), seeded(seed, device):
        return np.asarray(policy.predict(batch.to(device))[:, 0].float().cpu().numpy())


def moved(before: np.ndarray, after: np.ndarray, space: ActionSpace) -> np.ndarray:
    """(S,) mean over axes of the absolute change between two (S, A), as a share of each axis's half range."""
    return np.asarray(np.mean(np.abs(after - before) / half_range(space), axis=1))
