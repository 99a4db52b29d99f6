"""Owns the opponent that replays: it does what was done at the training frame that looks most like the present one.

In: the training episodes with their frames and the run's own frozen features (features.py). Out: predictions on
recorded frames and a controller for the simulator. Who does not beat it has only learned to look things up.

`nearest` compares the newest frame with every training frame. `nearest_words` compares it only with frames of those
training episodes whose sentence is the most alike: an equal sentence wins wherever it was trained on; where it was
not, the sentences that share the largest part of their words and pairs of neighbouring words do. This is one rule,
not a way out, and the share of episodes whose sentence was trained on word by word stands in the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.data.episode import EpisodeFile
from src.evaluation.baselines.features import FrozenFeatures, Neighbours
from src.evaluation.offline.scores import Truth
from src.evaluation.statistics import Estimate, wilson
from src.sim import Task, World

Key = tuple[str, int]


class Memory:
    """The training frames as features, with what was done and said there.

    Args:
        features: of the run's policy.
        episodes: the training episodes (E), as recorded.
        batches: any batches in which each of their frames is the newest of some window; what is still to be done to
            the frames for augmentation is not done, so the frames are those that were recorded.
    """

    def __init__(
        self, features: FrozenFeatures, episodes: Sequence[EpisodeFile], batches: Iterable[Batch]
    ) -> None:
        if not episodes:
            raise ProjectError(
                "evaluation.parts.baselines: the training split is empty, expected episodes to "
                "remember; raise data.split.train."
            )
        self.features = features
        self.actions = [np.asarray(episode.actions, dtype=np.float64) for episode in episodes]
        self.sentences = [tuple(_plain(text) for text in episode.instructions) for episode in episodes]
        seen = encode(features, batches)
        keys = [(row, t) for row, episode in enumerate(episodes) for t in range(episode.length)]
        missing = [(episodes[row].id, t) for row, t in keys if (episodes[row].id, t) not in seen]
        if missing:
            raise ProjectError(
                f"evaluation.parts.baselines: {len(missing)} of {len(keys)} training frames were not "
                f"served (first: {missing[0]}), "
                "expected each once; check data.sampler."
            )
        self.row = np.array([row for row, _ in keys])
        self.t = np.array([t for _, t in keys])
        self.first = np.concatenate([[0], np.cumsum([episode.length for episode in episodes])])
        self.neighbours = Neighbours(np.stack([seen[episodes[row].id, t] for row, t in keys]))
        self._likest: dict[str, np.ndarray] = {}

    @cached_property
    def _pieces(self) -> list[list[frozenset[tuple[str, ...]]]]:
        return [[pieces(text) for text in texts] for texts in self.sentences]

    def chunk(self, frame: np.ndarray, horizon: int) -> np.ndarray:
        """What was done from these training frames (N,) on -> (N, horizon, A) SI; past the end, the last action."""
        return np.stack(
            [
                actions[np.minimum(t + np.arange(horizon), len(actions) - 1)]
                for actions, t in ((self.actions[self.row[i]], self.t[i]) for i in frame.tolist())
            ]
        )

    def knows(self, sentence: str) -> bool:
        """Whether a training episode has this very sentence, in any of its wordings."""
        return any(_plain(sentence) in texts for texts in self.sentences)

    def said_alike(self, sentence: str) -> np.ndarray:
        """The frames (K,) of the episodes whose sentence is the most alike."""
        sentence = _plain(sentence)
        if sentence not in self._likest:
            own = pieces(sentence)
            likeness = [max(len(own & other) / len(own | other) for other in texts) for texts in self._pieces]
            # Two sentences may have the same pieces in another order; then the equal one alone counts.
            equal = [sentence in texts for texts in self.sentences]
            best = equal if any(equal) else [value == max(likeness) for value in likeness]
            spans = [np.arange(self.first[i], self.first[i + 1]) for i, chosen in enumerate(best) if chosen]
            self._likest[sentence] = np.concatenate(spans)
        return self._likest[sentence]


class Nearest:
    """Does what was done at the most similar training frame; see the head of this file.

    Args:
        memory: the training frames.
        words: compare only with frames whose sentence is the most alike.
    """

    looks = True
    omniscient = False

    def __init__(self, memory: Memory, words: bool) -> None:
        self.memory, self.words = memory, words
        self.name = "nearest_words" if words else "nearest"

    def predict(self, truth: Truth, seen: Mapping[Key, np.ndarray], spoken: Mapping[str, str]) -> np.ndarray:
        """Predictions (S, H, A) SI for recorded frames.

        `seen`: features (D,) of each frame, from `encode`; `spoken`: episode id -> its sentence.
        """
        queries = np.stack([seen[str(e), int(t)] for e, t in zip(truth.episode, truth.t, strict=True)])
        frame = self._find(queries, [spoken[str(episode)] for episode in truth.episode])
        return self.memory.chunk(frame, truth.actions.shape[1])

    def known_words(self, spoken: Mapping[str, str]) -> Estimate:
        """Share of episodes whose very sentence was trained on."""
        return wilson(sum(self.memory.knows(text) for text in spoken.values()), len(spoken))

    def reset(self, tasks: Sequence[Task]) -> None:
        """Start B episodes in closed loop."""
        self._said = [task.instruction for task in tasks]

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        """Commands (B, A) SI: the first action of the chunk; zero for robots that are not active."""
        assert frames is not None, "it looks, so the loop renders"
        rows = np.flatnonzero(active)
        actions = np.zeros((len(active), self.memory.actions[0].shape[1]), dtype=np.float32)
        if len(rows):
            pixels = torch.from_numpy(np.ascontiguousarray(frames[rows])).permute(0, 3, 1, 2)
            found = self._find(self.memory.features(pixels), [self._said[row] for row in rows])
            actions[rows] = self.memory.chunk(found, 1)[:, 0]
        return actions

    def _find(self, queries: np.ndarray, said: Sequence[str]) -> np.ndarray:
        among = [self.memory.said_alike(text) for text in said] if self.words else None
        return self.memory.neighbours.find(queries, among)


def encode(features: FrozenFeatures, batches: Iterable[Batch]) -> dict[Key, np.ndarray]:
    """Features (D,) of the newest frame of every window, by (episode id, t); each frame is encoded once."""
    seen: dict[Key, np.ndarray] = {}
    for batch in batches:
        new = {
            key: row
            for key, row in zip(batch.keys, batch.windows[:, -1].tolist(), strict=True)
            if key not in seen
        }
        if new:
            encoded = features(batch.frames[list(new.values())])
            seen |= dict(zip(new, encoded, strict=True))
    return seen


def pieces(text: str) -> frozenset[tuple[str, ...]]:
    """The words of a sentence and its pairs of neighbouring words, the ends included."""
    words = ["", *text.split(), ""]
    return frozenset([*((word,) for word in words[1:-1]), *zip(words, words[1:], strict=False)])


def _plain(text: str) -> str:
    """Capitals and spaces make no other sentence."""
    return " ".join(text.lower().split())
