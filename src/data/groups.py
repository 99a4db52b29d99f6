"""Owns which episodes count as the same drive, so that a split never puts one into training and its twin into the test.

In: episodes with the group that their files give. Out: one final group per episode, and the pairs that were found.

Two episodes of different groups are near-duplicates if (1) their actions are equal to the bit and (2) their first
frames are equal up to camera noise: averaged to 32 x 32 cells, no cell and colour differs by more than 8 of 255 levels.
Equal actions alone mean nothing (with key presses, 9 of 10 drives of a scenario can be the same key sequence), and
frames of one room look alike. The largest difference of a cell, not the mean, is what sees a single moved object. Both
groups then become one, and so do chains of pairs.
Not found: the same layout driven with other actions (that needs a group in the file) and copies with shifted time.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from src.data.episode import EpisodeFile
from src.data.frames import resize_frames
from src.data.progress import track

CELLS = 32
LEVELS = 8
"""Noise of sigma 5 in 96 px frames (9 pixels a cell) stays below 8; one of the simulator's far objects gives 30."""

EXPLANATION = (
    "group: the group of the file, joined with others where two episodes have bitwise equal actions and first frames "
    f"that differ by at most {LEVELS} of 255 levels in each of {CELLS} x {CELLS} cells and each colour."
)
FILES_ONLY = (
    "group: the group of the file; near-duplicates were not searched for (data.split.near_duplicates=false)."
)


@dataclass(frozen=True)
class Grouping:
    """Final groups.

    Attributes:
        groups: episode id -> group. Joined groups take the name that sorts first.
        pairs: (id, id, largest difference in levels) of the near-duplicates found, sorted by id.
        explanation: how it was done, in words for the manifest.
    """

    groups: dict[str, str]
    pairs: tuple[tuple[str, str, int], ...]
    explanation: str


def group_episodes(episodes: Sequence[EpisodeFile], near_duplicates: bool) -> Grouping:
    """The final group of every episode; the order of `episodes` has no influence.

    First frames are read only where the actions of two groups are equal: 8 ms (720p raw) to 240 ms (720p gzip) each.
    """
    episodes = sorted(episodes, key=lambda episode: episode.id)
    filed = {episode.id: episode.group for episode in episodes}
    if not near_duplicates:
        return Grouping(filed, (), FILES_ONLY)
    pairs = near_duplicate_pairs(episodes)
    parent = {group: group for group in filed.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for one, two, _ in pairs:
        low, high = sorted((root(filed[one]), root(filed[two])))
        parent[high] = low
    return Grouping({i: root(group) for i, group in filed.items()}, tuple(pairs), EXPLANATION)


def near_duplicate_pairs(episodes: Sequence[EpisodeFile]) -> list[tuple[str, str, int]]:
    """(id, id, largest difference of a cell in levels) of every pair of different groups that is the same drive."""
    alike: dict[str, list[EpisodeFile]] = {}
    for episode in episodes:
        alike.setdefault(actions_key(episode.actions), []).append(episode)
    rivals = [same for same in alike.values() if len({episode.group for episode in same}) > 1]
    looked_at = [episode for same in rivals for episode in same]
    cells = {e.id: first_cells(e) for e in track(looked_at, "comparing first frames")}
    pairs: list[tuple[str, str, int]] = []
    for same in rivals:
        table = np.stack([cells[episode.id] for episode in same])
        groups = np.array([episode.group for episode in same])
        for i in range(len(same) - 1):
            apart = np.abs(table[i + 1 :] - table[i]).max(axis=1)
            for j in np.flatnonzero((apart <= LEVELS) & (groups[i + 1 :] != groups[i])):
                pairs.append((same[i].id, same[i + 1 + j].id, int(apart[j])))
    return sorted(pairs)


def actions_key(actions: np.ndarray) -> str:
    """A fingerprint of actions (T, A): equal for equal values; -0.0 counts as 0.0."""
    values = np.ascontiguousarray(actions, dtype=np.float32) + np.float32(0)
    return hashlib.sha256(repr(values.shape).encode() + values.tobytes()).hexdigest()


def first_cells(episode: EpisodeFile) -> np.ndarray:
    """(3 · 32 · 32,) int16: the first frame averaged to cells (antialiased bilinear), levels 0 … 255."""
    return resize_frames(episode.frames(0, 1), CELLS).numpy().astype(np.int16).reshape(-1)
