"""Owns the opponents that know next to nothing: a policy that cannot beat them has learned nothing that matters.

In: recorded actions of the training split (fitted on nothing else). Out: predictions on the held-out frames and a
controller for the simulator, one class per baseline; the opponents that look are in nearest.py. A clock that scores
well means that the data can be replayed by heart; a mean that scores well means that the metric is blind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.evaluation.offline.scores import Truth
from src.sim import Task, World


class Baseline(ABC):
    """Fit on training actions; predict offline; drive in closed loop. It never sees a frame or an instruction."""

    name: str
    looks = False
    omniscient = False

    def fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        """`episodes`: the actions (T, A) in SI units of each training episode."""
        self.dim = space.dim
        self._fit(episodes, space)

    @abstractmethod
    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        """What the baseline remembers of the training split."""

    @abstractmethod
    def chunk(self, t: np.ndarray, previous: np.ndarray, horizon: int) -> np.ndarray:
        """Actions from time index `t` (N,) on, after `previous` (N, A; NaN at the start) → (N, horizon, A) SI."""

    def predict(self, truth: Truth) -> np.ndarray:
        """Score-ready predictions (S, H, A) for recorded frames; the previous action is the recorded one."""
        at = {(e, t): row for row, (e, t) in enumerate(zip(truth.episode, truth.t, strict=True))}
        previous = np.full_like(truth.actions[:, 0], np.nan)
        for row, (episode, t) in enumerate(zip(truth.episode, truth.t, strict=True)):
            before = at.get((episode, t - 1))
            if before is not None:
                previous[row] = truth.actions[before, 0]
        return self.chunk(truth.t, previous, truth.actions.shape[1])

    def reset(self, tasks: Sequence[Task]) -> None:
        """Start B episodes in closed loop."""
        self._previous = np.full((len(tasks), self.dim), np.nan)
        self._steps = np.zeros(len(tasks), dtype=np.int64)

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        """Commands (B, A) SI; the previous action is the one the baseline itself gave."""
        actions = self.chunk(self._steps, self._previous, 1)[:, 0]
        self._previous = actions
        self._steps = self._steps + 1
        return actions.astype(np.float32)


class _Constant(Baseline):
    """Always the same action (A,)."""

    action: np.ndarray

    def chunk(self, t: np.ndarray, previous: np.ndarray, horizon: int) -> np.ndarray:
        return np.broadcast_to(self.action, (len(t), horizon, len(self.action))).astype(np.float64)


class Majority(_Constant):
    """The mean action of the most frequent direction class."""

    name = "majority"

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        actions = np.concatenate(episodes)
        classes = space.classify(actions)
        self.action = actions[classes == np.bincount(classes).argmax()].mean(axis=0)


class TrainingMean(_Constant):
    """The mean of all training actions."""

    name = "mean"

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        self.action = np.concatenate(episodes).mean(axis=0)


class StraightAhead(_Constant):
    """The class `forward` of the action space, at the mean speed the training data has along it."""

    name = "straight"

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        if "forward" not in space.classes:
            raise ProjectError(
                "evaluation.parts.baselines.names: 'straight' needs a class named 'forward' in the "
                "action space, found "
                f"{', '.join(space.classes) or 'none'}; add it to data.action.classes, or drop 'straight'."
            )
        direction = np.array(space.classes["forward"]) * space.scale
        unit = direction / np.linalg.norm(direction)
        self.action = unit * max(0.0, float((np.concatenate(episodes) @ unit).mean()))


class RepeatLast(Baseline):
    """The previous action again; the mean first action at the start."""

    name = "repeat_last"

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        self.first = np.mean([episode[0] for episode in episodes], axis=0)

    def chunk(self, t: np.ndarray, previous: np.ndarray, horizon: int) -> np.ndarray:
        action = np.where(np.isnan(previous), self.first, previous)
        return np.repeat(action[:, None], horizon, axis=1)


class Clock(Baseline):
    """The mean training action at the same time index; beyond the longest episode, the last one."""

    name = "clock"

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        longest = max(len(episode) for episode in episodes)
        self.table = np.stack(
            [np.mean([e[t] for e in episodes if len(e) > t], axis=0) for t in range(longest)]
        )

    def chunk(self, t: np.ndarray, previous: np.ndarray, horizon: int) -> np.ndarray:
        index = np.minimum(t[:, None] + np.arange(horizon), len(self.table) - 1)
        return self.table[index]


class Random(Baseline):
    """Uniform within the limits, with a fixed seed. Each simulated task has dice of its own, "
    "whatever drives beside it."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def _fit(self, episodes: Sequence[np.ndarray], space: ActionSpace) -> None:
        self.low, self.high = np.array(space.low), np.array(space.high)
        self._rng = np.random.default_rng(self.seed)

    def predict(self, truth: Truth) -> np.ndarray:
        self._rng = np.random.default_rng(self.seed)
        return super().predict(truth)

    def reset(self, tasks: Sequence[Task]) -> None:
        super().reset(tasks)
        self._dice = [np.random.default_rng([self.seed, task.index]) for task in tasks]

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        actions = np.zeros((len(self._dice), self.dim), dtype=np.float32)
        for i in np.flatnonzero(active):
            actions[i] = self._dice[i].uniform(self.low, self.high)
        return actions

    def chunk(self, t: np.ndarray, previous: np.ndarray, horizon: int) -> np.ndarray:
        return self._rng.uniform(self.low, self.high, size=(len(t), horizon, len(self.low)))


BASELINES: dict[str, type[Baseline]] = {
    cls.name: cls for cls in (Majority, TrainingMean, RepeatLast, Clock, Random, StraightAhead)
}


def check_names(names: Sequence[str]) -> None:
    """Refuse a baseline that does not exist."""
    for name in names:
        if name not in BASELINES:
            raise ProjectError(
                f"evaluation.parts.baselines.names: no baseline is called '{name}', expected some of "
                f"{', '.join(BASELINES)}; correct it."
            )


def fit_baselines(names: Sequence[str], episodes: Sequence[np.ndarray], space: ActionSpace) -> list[Baseline]:
    """Build and fit the named baselines on the training split's actions, each (T, A) in SI units."""
    if not episodes:
        raise ProjectError(
            "evaluation.parts.baselines: the training split is empty, expected episodes to fit to; "
            "raise data.split.train."
        )
    check_names(names)
    fitted = []
    for name in names:
        baseline = BASELINES[name]()
        baseline.fit(episodes, space)
        fitted.append(baseline)
    return fitted
