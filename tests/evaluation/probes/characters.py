"""Policies of known character for recorded drives of the simulator's expert: sound, deaf, blind, a clock.

They stand where a `Policy` stands: they get packed batches and give actions. What each of them cannot use never enters
its prediction. What it can use it understands perfectly, up to a noise that is a fixed function of what it perceives:
a picture is recognised as the known frame that is most alike, a sentence by its words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from src.evaluation.bench import Bench
from src.sim import Expert, Task, sample_task
from tests.deploy.standins import SPACE
from tests.evaluation.drivers import understood

WINDOW, HORIZON = 32, 2  # as long as a drive, so that the mask of the window tells the time
SIDES = ("left", "right")
VOCABULARY: dict[str, int] = {}


def tokenize(texts: list[str]) -> tuple[Tensor, Tensor]:
    """A number per word, in order of first appearance."""
    rows = [[VOCABULARY.setdefault(word, len(VOCABULARY) + 1) for word in text.split()] for text in texts]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, ids > 0


def read(ids: Tensor) -> str:
    words = {number: word for word, number in VOCABULARY.items()}
    return " ".join(words[int(i)] for i in ids if i > 0)


@dataclass(frozen=True)
class Known:
    """Every frame of a data set, and what the expert would do there under every demand."""

    pixels: np.ndarray  # (N, D) float32
    tasks: list[Task]  # N: the task of each frame's drive
    expert: np.ndarray  # (N, 2, 3, 3): command (SI) by side and by object
    step: np.ndarray  # (N,) time index
    actions: np.ndarray  # (N, 3) as recorded
    habit: np.ndarray  # (N, 3) mean recorded action of the most similar frames of other drives
    by_time: np.ndarray  # (WINDOW, 3) mean recorded action at a time step
    by_words: np.ndarray  # (WINDOW, 2, 3, 3) mean command of the expert at a time step, by side and by object
    cache: dict[bytes, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, data: EpisodeDataModule) -> Known:
        pixels, tasks, expert, step, actions = [], [], [], [], []
        for file in (*data.episodes("train"), *data.episodes("val")):
            episode = file.load()
            facts = episode.attributes
            task = sample_task(str(facts["suite"]), str(facts["split"]), int(facts["index"]))
            assert episode.poses is not None
            for t, pose in enumerate(episode.poses):
                pixels.append(episode.frames[t].transpose(2, 0, 1).reshape(-1))
                tasks.append(task)
                step.append(t)
                expert.append([[_command(task, side, target, pose) for target in range(3)] for side in SIDES])
            actions.append(episode.actions)
        flat, done = np.array(pixels, np.float32), np.concatenate(actions)
        drive = np.cumsum(np.array(step) == 0)
        alike = (flat**2).sum(1)[None] - 2 * flat @ flat.T
        alike[drive[:, None] == drive[None]] = np.inf
        habit = done[np.argpartition(alike, 8, axis=1)[:, :8]].mean(1)
        table, when = np.array(expert), np.array(step)
        rows = [when == min(t, int(when.max())) for t in range(WINDOW)]
        by_time, by_words = (np.array([of[row].mean(0) for row in rows]) for of in (done, table))
        return cls(flat, tasks, table, when, done, habit, by_time, by_words)

    def recognise(self, frames: Tensor) -> np.ndarray:
        """(N', 3, h, w) → (N',) the most similar known frame."""
        seen = frames.flatten(1).numpy()
        key = sha1(seen.tobytes()).digest()
        if key not in self.cache:
            distance = (self.pixels**2).sum(1)[None] - 2 * seen.astype(np.float32) @ self.pixels.T
            self.cache[key] = distance.argmin(axis=1)
        return self.cache[key]


def _command(task: Task, side: str, target: int, pose: np.ndarray) -> np.ndarray:
    demand = replace(task, sides=(side,) * len(task.scene.boxes), target=target)
    world = SimpleNamespace(task=demand, pose=tuple(pose))
    return Expert(world).act()  # type: ignore[arg-type]


class Character:
    """`kind`: sound | deaf (always left, first object) | average (deaf, imitates what was done before similar pictures)
    | blind (the words and the time) | clock (the time).

    `noise`: SI, standard deviation of its error, which depends on what it perceives and nothing else. `clumsy`:
    share of the known places in which a sound one does not heed the words.
    """

    window, horizon = WINDOW, HORIZON

    def __init__(
        self, kind: str, known: Known, noise: float = 0.0, seed: int = 0, clumsy: float = 0.0
    ) -> None:
        self.kind, self.known = kind, known
        rng = np.random.default_rng(seed)
        n = len(known.tasks)
        self.errors = rng.normal(0, noise, (n, 2, 3, 3))
        self.inattentive = rng.random(n) < clumsy
        self.tokenize = tokenize

    def eval(self) -> Character:
        return self

    def parameters(self) -> Iterator[Tensor]:
        return iter([torch.zeros(1)])

    def predict(self, batch: Batch) -> Tensor:
        batch.validate()
        newest = batch.windows[:, -1]
        time = batch.window_mask.sum(1).numpy() - 1
        texts = [read(row) for row in batch.instruction_ids]
        owner = batch.episode[newest].tolist()
        if self.kind == "clock":
            now = self.known.by_time[time]
        elif self.kind == "blind":
            heard = [self._demand(texts[row], self.known.tasks[0]) for row in owner]
            now = np.array([self.known.by_words[t, s, o] for t, (s, o) in zip(time, heard, strict=True)])
        else:
            seen = self.known.recognise(batch.frames)[newest.numpy()]
            now = np.array([self._drive(k, texts[row]) for k, row in zip(seen, owner, strict=True)])
        return torch.from_numpy(np.repeat(now[:, None], HORIZON, axis=1)).float().clamp(-1.15, 1.15)

    def _drive(self, k: int, text: str) -> np.ndarray:
        commands = self.known.expert[k]
        if self.kind == "average":
            return np.asarray(self.known.habit[k] + self.errors[k, 0, 0])
        side, target = self._demand(text, self.known.tasks[k])
        if self.kind == "deaf" or self.inattentive[k]:
            side, target = 0, 0
        return np.asarray(commands[side, target] + self.errors[k, side, target])

    def _demand(self, text: str, task: Task) -> tuple[int, int]:
        heard = understood(replace(task, instruction=text))
        return SIDES.index(heard.sides[0]), heard.target


def opened(folder: Path, seed: int = 0, val: float = 0.5, window: int = WINDOW) -> EpisodeDataModule:
    """The recorded drives in `folder` as a data module, split anew for each seed."""
    module = EpisodeDataModule(
        str(folder), SPACE, MinMaxNormalizer(), EpisodeSampler(8), SplitRule(1 - val, val, 0.0, seed=seed),
        window, HORIZON, 16,
    )  # fmt: skip
    module.bind(tokenize)
    module.setup("fit")
    return module


def bench(policy: object, data: EpisodeDataModule, folder: Path, split: str | None = "val") -> Bench:
    """Nothing is driven."""
    return Bench(
        policy=policy, datamodule=data, folder=folder, run=None, split=split, suites=[], language="en",
        execute=1, temporal_ensemble=None, batch_size=8, workers=1, seed=0,
    )  # type: ignore[arg-type]  # fmt: skip
