"""Owns what two frames have in common in the eyes of the run's own backbone, before it learned anything here.

In: a policy and frames. Out: one vector per frame, and the nearest training frames of a query. The adapters of a LoRA
run are switched off while it looks, so the features are those of the frozen model; where the vision tower itself was
trained, no frozen one is left, and `trained` says so.

A vector is the frame's latents, averaged within the cells of a g × g grid and laid side by side: g is the largest side
at which it stays within 2048 numbers. So the small model keeps all its latents, each of which stands for a place in the
picture, and a large one is averaged over the whole picture. 800 episodes of 18 frames are then 0.12 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from src.model.policy import Policy

MOST_NUMBERS = 2048
AT_ONCE = 128  # frames encoded together; bounds the memory and changes nothing
CANDIDATES = 8  # found by a fast product, then ranked by the exact distance
_CONSTANT = 1e-6  # a feature that varies less than this share of the most varying one holds no information


class FrozenFeatures:
    """Frames (N, 3, h, w) uint8 -> features (N, D) float32 on the CPU.

    Attributes:
        trained: weights of the backbone's network (beside adapters) were trained in this run.
        latents: P, latents per frame; pooled: how many vectors of each frame are left after averaging.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.device = next(policy.parameters()).device
        self.latents = policy.backbone.latents_per_frame
        self.pooled = 0
        with without_adapters(policy.backbone.network):
            self.trained = any(p.requires_grad for p in policy.backbone.network.parameters())

    @torch.inference_mode()
    def __call__(self, frames: Tensor) -> np.ndarray:
        backbone = self.policy.backbone
        # Past the policy's own senses: an opponent looks even where the policy is blind.
        with without_adapters(backbone.network):
            parts = [
                self._pool(backbone.encode_images(backbone.preprocess(part.to(self.device))).float()).cpu()
                for part in frames.split(AT_ONCE)
            ]
        return torch.cat(parts).numpy()

    def _pool(self, latents: Tensor) -> Tensor:
        """(N, P, C) -> (N, g² · C)."""
        side, budget = math.isqrt(latents.shape[1]), math.isqrt(max(1, MOST_NUMBERS // latents.shape[2]))
        if side * side == latents.shape[1]:
            grid = latents.transpose(1, 2).unflatten(2, (side, side))
            pooled = functional.adaptive_avg_pool2d(grid, min(side, budget)).flatten(2)
        else:  # not a square: neighbours in the sequence
            pooled = functional.adaptive_avg_pool1d(
                latents.transpose(1, 2), min(latents.shape[1], budget * budget)
            )
        self.pooled = pooled.shape[2]
        return pooled.flatten(1)


@contextmanager
def without_adapters(network: nn.Module) -> Iterator[None]:
    """Adapters of peft act as if they were not there; switches and `requires_grad` are put back as they were."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    trains = {p: p.requires_grad for module in adapted for p in module.parameters()}
    disabled = [module.disable_adapters for module in adapted]
    for module in adapted:
        module.enable_adapters(False)
    try:
        yield
    finally:
        for module, was_disabled in zip(adapted, disabled, strict=True):
            module.enable_adapters(not was_disabled)
        for parameter, learns in trains.items():
            parameter.requires_grad_(learns)


class Neighbours:
    """The nearest of M stored vectors, each feature measured in standard deviations of the stored ones.

    A feature that is constant there cannot tell one stored vector from another, so it counts nothing.
    """

    def __init__(self, stored: np.ndarray) -> None:
        """`stored`: (M, D) float32."""
        self.mean = stored.mean(axis=0, dtype=np.float64).astype(np.float32)
        deviation = stored.std(axis=0, dtype=np.float64)
        varies = deviation > _CONSTANT * deviation.max(initial=0.0)
        self.weight = np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0).astype(np.float32)
        self.stored = self._standardised(stored)
        self.square = np.einsum("md,md->m", self.stored, self.stored)

    def find(self, queries: np.ndarray, among: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """The row of the nearest stored vector (N,) for each query (N, D); ties always end alike.

        `among`: for each query the ascending rows it may choose from, at least one; None: all.
        """
        asked = self._standardised(queries)
        if among is not None:
            return np.array(
                [
                    self._best(query, self.square[rows] - 2 * (self.stored[rows] @ query), rows)
                    for query, rows in zip(asked, among, strict=True)
                ],
                dtype=np.int64,
            )
        every = np.arange(len(self.stored))
        found = []
        for part in np.array_split(asked, max(1, math.ceil(len(asked) / AT_ONCE))):
            rough = self.square - 2 * (part @ self.stored.T)
            found += [self._best(query, row, every) for query, row in zip(part, rough, strict=True)]
        return np.array(found, dtype=np.int64)

    def _best(self, query: np.ndarray, rough: np.ndarray, rows: np.ndarray) -> int:
        """The product is fast but loses digits where two frames are alike, so the last word is an exact distance."""
        few = rows
        if len(rows) > CANDIDATES:
            few = np.sort(rows[np.argpartition(rough, CANDIDATES - 1)[:CANDIDATES]])
        exact = np.square(self.stored[few].astype(np.float64) - query).sum(axis=1)
        return int(few[exact.argmin()])

    def _standardised(self, vectors: np.ndarray) -> np.ndarray:
        return np.asarray((vectors - self.mean) * self.weight, dtype=np.float32)
