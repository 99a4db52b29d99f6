"""Owns driving: any controller, many simulated tasks at once, until each is done.

In: a `Controller` (policy, expert or baseline) and tasks. Out: one `Rollout` per task, i.e. its outcome, path and
commands, and tables of success, collision and so on with intervals. Rendering is the cost, so only controllers
that look get frames, and only for the environments still driving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from src.core.errors import ProjectError
from src.deploy.predictor import BatchedPredictor
from src.evaluation.driving.fleet import Fleet, LocalFleet
from src.evaluation.offline.scores import seeded
from src.evaluation.statistics import POSITIVE, SHARE, Estimate, bootstrap_mean, wilson
from src.sim import SPLITS, SUITES, Expert, Outcome, Task, World, sample_task


@dataclass(frozen=True)
class Suite:
    """Which tasks to drive: `episodes` tasks of a suite's split, always the same ones."""

    suite: str
    split: str
    episodes: int

    @property
    def name(self) -> str:
        return f"{self.suite}/{self.split}"

    @classmethod
    def parse(cls, name: str, episodes: int) -> Suite:
        """`full1/layout` → that suite and split."""
        suite, slash, split = name.partition("/")
        if not slash or suite not in SUITES or split not in SPLITS:
            raise ProjectError(
                f"evaluation.suites: '{name}' is no <suite>/<split>; suites are {', '.join(SUITES)}, "
                f"splits are {', '.join(SPLITS)}"
            )
        if episodes < 1:
            raise ProjectError(
                f"evaluation.episodes is {episodes}; drive at least 1, or set evaluation.suites=[]"
            )
        return cls(suite, split, episodes)

    def tasks(self, language: str = "en") -> list[Task]:
        return [sample_task(self.suite, self.split, index, language) for index in range(self.episodes)]


@dataclass(frozen=True)
class Rollout:
    """One episode as driven: `actions` (T, A) SI units, `poses` (T + 1, 3) m, m, rad."""

    index: int
    task: Task
    outcome: Outcome
    actions: np.ndarray
    poses: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """One row of rollouts.json."""
        return {
            "index": self.index,
            "instruction": self.task.instruction,
            **asdict(self.outcome),
            "actions": np.round(self.actions, 5).tolist(),
            "poses": np.round(self.poses, 4).tolist(),
        }


class Controller(Protocol):
    """Anything that drives: the policy through its predictor, the expert, a baseline."""

    name: str
    looks: bool  # whether it needs camera frames; rendering them is the cost
    omniscient: bool  # whether it reads the worlds themselves, which then have to live in this process

    def reset(self, tasks: Sequence[Task]) -> None:
        """Start B new episodes."""
        ...

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        """`frames` (B, S, S, 3) uint8 RGB or None, `active` (B,) bool → commands (B, A) in SI units.

        `worlds` is empty where they live in other processes, which is never so for omniscient drivers.
        """
        ...


class PolicyController:
    """The trained policy: sees the frames and the instruction and nothing else."""

    looks = True
    omniscient = False

    def __init__(self, predictor: BatchedPredictor, name: str = "policy") -> None:
        self.predictor = predictor
        self.name = name
        self.device = predictor.device

    def reset(self, tasks: Sequence[Task]) -> None:
        self.predictor.reset([task.instruction for task in tasks])

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        assert frames is not None, "the policy looks, so the loop renders"
        return self.predictor.step(frames, active)


class ExpertController:
    """The demonstrator with full knowledge of the scene: the ceiling of the table."""

    name = "expert"
    looks = False
    omniscient = True

    def reset(self, tasks: Sequence[Task]) -> None:
        self._experts: dict[int, Expert] = {}

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        actions = np.zeros((len(worlds), 3), dtype=np.float32)
        for i in np.flatnonzero(active):
            expert = self._experts.setdefault(int(i), Expert(worlds[int(i)]))
            actions[i] = expert.act()
        return actions


def drive(
    controller: Controller,
    tasks: Sequence[Task],
    image_size: int,
    batch_size: int = 50,
    fleet: Fleet | None = None,
    seed: int = 0,
) -> list[Rollout]:
    """Drive every task once, `batch_size` environments side by side; `image_size` in pixels.

    `fleet` is where the worlds live (default, and for omniscient drivers always: this process). `seed` fixes the
    dice of heads that sample their actions.
    """
    if fleet is None or controller.omniscient:
        fleet = LocalFleet(image_size)
    rollouts: list[Rollout] = []
    with seeded(seed, getattr(controller, "device", torch.device("cpu"))):
        for start in range(0, len(tasks), batch_size):
            rollouts += _drive_batch(controller, tasks[start : start + batch_size], start, fleet)
    return rollouts


def _drive_batch(controller: Controller, tasks: Sequence[Task], start: int, fleet: Fleet) -> list[Rollout]:
    b = len(tasks)
    path = [fleet.reset(tasks)]  # poses (B, 3) per step; the inactive stand still
    controller.reset(tasks)
    given: list[np.ndarray] = []
    lengths = np.zeros(b, dtype=np.int64)
    active = np.ones(b, dtype=bool)
    while active.any():
        frames = fleet.look(active) if controller.looks else None
        commands = controller.act(fleet.worlds, frames, active)
        poses, done = fleet.step(commands, active)
        path.append(poses)
        given.append(np.asarray(commands, dtype=np.float32))
        lengths += active
        active &= ~done
    actions, poses = np.stack(given, axis=1), np.stack(path, axis=1)
    return [
        Rollout(start + i, tasks[i], outcome, actions[i, : lengths[i]], poses[i, : lengths[i] + 1])
        for i, outcome in enumerate(fleet.outcomes())
    ]


def summarise(rollouts: Sequence[Rollout], seed: int = 0) -> dict[str, Estimate]:
    """The figures of a set of episodes: shares with Wilson intervals, means with bootstrap intervals."""
    outcomes = [rollout.outcome for rollout in rollouts]

    def share(values: Sequence[bool | None]) -> Estimate:
        known = [bool(value) for value in values if value is not None]
        return wilson(sum(known), len(known))

    def mean(values: Sequence[float], bounds: tuple[float, float] = POSITIVE) -> Estimate:
        return bootstrap_mean(np.array(values, dtype=np.float64), seed, bounds=bounds)

    return {
        "success": share([o.success for o in outcomes]),
        "collision": share([o.collision for o in outcomes]),
        "timeout": share([o.timeout for o in outcomes]),
        "right_object": share([o.right_object for o in outcomes]),
        "right_side": share([o.right_side for o in outcomes]),
        "spl": mean([o.spl for o in outcomes], SHARE),
        "path_length": mean([o.path_length for o in outcomes]),
        "path_excess": mean([o.path_length / max(o.shortest_path, 1e-6) - 1 for o in outcomes if o.success]),
        "steps": mean([o.steps for o in outcomes]),
    }


def successes(rollouts: Sequence[Rollout]) -> np.ndarray:
    """(N,) float, 1 where the episode succeeded: the unit of paired comparisons."""
    return np.array([float(rollout.outcome.success) for rollout in rollouts])
