"""Owns which samples form a batch, and in which order: a function of (seed, epoch) alone.

In: the lengths of the episodes. Out: plans, i.e. lists of (episode row, steps), from which batches are assembled.
`EpisodeSampler` puts neighbouring samples together, so that a frame is encoded once for all the windows it is in;
`WindowSampler` draws single windows at random and is the reference. Both visit every sample once per epoch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Sampler as TorchSampler

from src.core.errors import ProjectError


@dataclass(frozen=True)
class Plan:
    """One batch to be assembled.

    Attributes:
        epoch: for choices that change from epoch to epoch (the phrasing of an instruction).
        rows: (S,) int64, the episode of each sample.
        steps: (S,) int64, its step t.
    """

    epoch: int
    rows: np.ndarray
    steps: np.ndarray


class Sampler(ABC):
    """A rule that cuts a set of episodes into batches of samples."""

    @abstractmethod
    def count(self, lengths: Sequence[int]) -> int:
        """Batches per epoch; the same in every epoch."""

    @abstractmethod
    def batches(
        self, lengths: Sequence[int], rng: np.random.Generator | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows, steps) of every batch of an epoch, shuffled by `rng`, or in the order of the episodes if None."""


class EpisodeSampler(Sampler):
    """Whole episodes, or contiguous segments of them.

    Args:
        episodes_per_batch: how many episodes (segments, if cut) share a batch.
        segment_length: longest run of samples in steps; None keeps episodes whole. A segment that starts inside an
            episode also loads the W-1 frames before it, as history only.
    """

    def __init__(self, episodes_per_batch: int, segment_length: int | None = None) -> None:
        _positive("episodes_per_batch", episodes_per_batch)
        if segment_length is not None:
            _positive("segment_length", segment_length)
        self.episodes_per_batch = episodes_per_batch
        self.segment_length = segment_length

    def count(self, lengths: Sequence[int]) -> int:
        """Batches per epoch."""
        return -(-len(self._segments(lengths)) // self.episodes_per_batch)

    def batches(
        self, lengths: Sequence[int], rng: np.random.Generator | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Segments in random order (or in order), `episodes_per_batch` at a time."""
        segments = self._segments(lengths)
        order = np.arange(len(segments)) if rng is None else rng.permutation(len(segments))
        result = []
        for first in range(0, len(order), self.episodes_per_batch):
            chosen = [segments[i] for i in order[first : first + self.episodes_per_batch]]
            rows = np.concatenate([np.full(stop - start, row) for row, start, stop in chosen])
            steps = np.concatenate([np.arange(start, stop) for _, start, stop in chosen])
            result.append((rows.astype(np.int64), steps.astype(np.int64)))
        return result

    def _segments(self, lengths: Sequence[int]) -> list[tuple[int, int, int]]:
        """(row, start, stop) of every run of samples."""
        runs = []
        for row, length in enumerate(lengths):
            step = self.segment_length or length
            runs += [(row, start, min(start + step, length)) for start in range(0, length, step)]
        return runs


class WindowSampler(Sampler):
    """Single samples at random: the textbook shuffle. Frames are shared only by chance, so it costs up to W times more.

    Args:
        windows_per_batch: S, the samples of a batch.
    """

    def __init__(self, windows_per_batch: int) -> None:
        _positive("windows_per_batch", windows_per_batch)
        self.windows_per_batch = windows_per_batch

    def count(self, lengths: Sequence[int]) -> int:
        """Batches per epoch."""
        return -(-sum(lengths) // self.windows_per_batch)

    def batches(
        self, lengths: Sequence[int], rng: np.random.Generator | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """All samples in random order (or in order), `windows_per_batch` at a time."""
        rows = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        steps = np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
        order = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
        cuts = range(0, len(order), self.windows_per_batch)
        parts = [order[first : first + self.windows_per_batch] for first in cuts]
        return [(rows[part], steps[part]) for part in parts]


class PlanSampler(TorchSampler[Plan]):
    """Feeds a DataLoader with the plans of the current epoch, from a given position on.

    Where several processes train one run, each takes its share of the same order (see `share`); together they visit
    every sample once per epoch, in the same number of steps.

    Args:
        rule: how episodes are cut into batches.
        lengths: T of every episode.
        seed: with the epoch it fixes the order; None keeps the order of the episodes in every epoch.
        shared: give each process its share; False gives all of them everything.
    """

    def __init__(self, rule: Sampler, lengths: Sequence[int], seed: int | None, shared: bool = True) -> None:
        self.rule = rule
        self.lengths = list(lengths)
        self.seed = seed
        self.shared = shared
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches per epoch and process, whatever the position."""
        return -(-self.rule.count(self.lengths) // self._place()[1])

    def __iter__(self) -> Iterator[Plan]:
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch])
        batches = self.rule.batches(self.lengths, rng)
        for rows, steps in share(batches, *self._place())[self.start :]:
            yield Plan(self.epoch, rows, steps)

    def _place(self) -> tuple[int, int]:
        return _world() if self.shared else (0, 1)


def share(
    batches: Sequence[tuple[np.ndarray, np.ndarray]], rank: int, world: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The batches of process `rank` of `world`: the k-th round hands batch k·world + rank to each of them.

    Where the last round has fewer batches than processes, its samples are cut into equal parts, one each (parts
    differ by one sample at most); rounds before it are cut anew with it where it has too few samples for that. So no
    sample is left out or seen twice, and all processes make ⌈batches / world⌉ steps.

    Args:
        batches: (rows, steps) of every batch of the epoch.
        rank: number of the process.
        world: how many there are.

    Raises:
        ProjectError: fewer samples than processes.
    """
    whole, left = divmod(len(batches), world)
    if left == 0:
        return list(batches[rank::world])
    rounds = -(-len(batches) // world)
    while sum(len(rows) for rows, _ in batches[whole * world :]) < (rounds - whole) * world:
        whole -= 1
        if whole < 0:
            raise ProjectError(
                f"trainer.devices: found {world} processes for {sum(len(rows) for rows, _ in batches)} training "
                "samples, expected one each in every step; use fewer devices or more data."
            )
    tail = batches[whole * world :]
    parts = (rounds - whole) * world
    rows = np.array_split(np.concatenate([rows for rows, _ in tail]), parts)
    steps = np.array_split(np.concatenate([steps for _, steps in tail]), parts)
    cut = list(zip(rows, steps, strict=True))
    return [*batches[rank : whole * world : world], *cut[rank::world]]


def _world() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _positive(key: str, value: int) -> None:
    if value < 1:
        raise ProjectError(f"data.sampler.{key} is {value}; expected 1 or more.")
