"""Owns driving through BabyAI's rooms: which rooms, who drives, what came of it.

In: a driver (the policy through its predictor, or an opponent that knows nothing) and tasks. Out: one `Drive` per task
and figures with intervals. The rooms are those of held-out seeds; whoever drives them meets each for the first time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.deploy.predictor import BatchedPredictor
from src.evaluation.offline.scores import seeded
from src.evaluation.statistics import Estimate, bootstrap_mean, wilson
from src.external.levels import COMMANDS, Room, Thing, bot_drive


@dataclass(frozen=True)
class RoomTask:
    """One room to drive.

    Attributes:
        level, seed: which room.
        instruction: what the driver is told.
        target: what has to be reached, colour and kind.
        own: what the level itself demands.
        others: further things in the room, by colour and kind.
        bot_steps: how many steps the bot takes to `own`.
    """

    level: str
    seed: int
    instruction: str
    target: Thing
    own: Thing
    others: tuple[Thing, ...]
    bot_steps: int


@dataclass(frozen=True)
class Drive:
    """One room as driven: `classes` (T,) direction classes, `reward` as the level gives it (0: not reached)."""

    task: RoomTask
    success: bool
    reward: float
    classes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One row of babyai.json."""
        return {
            "level": self.task.level,
            "seed": self.task.seed,
            "instruction": self.task.instruction,
            "target": " ".join(self.task.target),
            "success": self.success,
            "reward": round(self.reward, 6),
            "bot_steps": self.task.bot_steps,
            "steps": list(self.classes),
        }


def held_out_tasks(
    level: str, episodes: int, first_seed: int, seen: Collection[str] = ()
) -> tuple[list[RoomTask], dict[str, int]]:
    """The first `episodes` rooms from `first_seed` on that are new and that the bot solves, and what was passed over.

    `seen`: digests of rooms that were recorded (`Room.digest`); a level of one object repeats itself now and then. A
    room that the bot does not solve with the moves of a mobile base is no fair task.

    Raises:
        ProjectError: ten times as many rooms were passed over as are wanted.
    """
    room = Room(level)
    tasks: list[RoomTask] = []
    passed_over: Counter[str] = Counter()
    seed = first_seed
    while len(tasks) < episodes:
        if sum(passed_over.values()) > 10 * episodes:
            raise ProjectError(
                f"BabyAI's level {level}: found {len(tasks)} fair rooms and passed over {dict(passed_over)}, expected "
                f"{episodes}; ask for fewer episodes, or install the version of minigrid in constraints.txt."
            )
        room.reset(seed)
        instruction, target, things = room.mission, room.target, room.things()
        if room.digest() in seen:
            passed_over["recorded before"] += 1
        else:
            advice = bot_drive(room)
            if advice.problem is None:
                others = tuple(thing for thing in things if thing != target)
                tasks.append(RoomTask(level, seed, instruction, target, target, others, len(advice.steps)))
            else:
                passed_over[f"the bot {advice.problem}"] += 1
        seed += 1
    return tasks, dict(passed_over)


def retargeted(task: RoomTask, room: Room) -> RoomTask:
    """The same room with another of its things named and demanded, as the level itself would say it."""
    choice = task.others[int(np.random.default_rng(task.seed).integers(len(task.others)))]
    room.reset(task.seed, choice)
    return replace(task, instruction=room.mission, target=choice)


# ---------------------------------------------------------------- drivers


class Driver(Protocol):
    """Anything that drives; `looks`: whether it needs frames, which cost the most."""

    name: str
    looks: bool

    def reset(self, tasks: Sequence[RoomTask]) -> None:
        """Start B rooms."""
        ...

    def act(self, rooms: Sequence[Room], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        """`frames` (B, S, S, 3) uint8 RGB or None, `active` (B,) bool → commands (B, 2) in m/s and rad/s."""
        ...


class PolicyDriver:
    """The trained policy, through the predictor that a robot uses: it sees frames and words and nothing else."""

    looks = True

    def __init__(self, predictor: BatchedPredictor, name: str = "policy") -> None:
        self.predictor, self.name = predictor, name
        self.device = predictor.device

    def reset(self, tasks: Sequence[RoomTask]) -> None:
        self.predictor.reset([task.instruction for task in tasks])

    def act(self, rooms: Sequence[Room], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        assert frames is not None, "the policy looks, so the loop renders"
        return self.predictor.step(frames, active)


class Blindfolded:
    """An opponent that sees and hears nothing; it knows how often each direction class occurs in the training data.

    `majority`: always the commonest class. `clock`: the commonest one at the same step. `random`: a class drawn with
    its frequency at every step, so it wanders about like the bot does.
    """

    looks = False

    def __init__(self, name: str, episodes: Sequence[np.ndarray], space: ActionSpace, seed: int = 0) -> None:
        """`episodes`: actions (T, 2) of each training episode in m/s and rad/s."""
        self.name, self.seed = name, seed
        labels = [space.classify(actions) for actions in episodes]
        count = len(space.class_names)
        self.values = np.array([COMMANDS[name] for name in space.class_names])
        self.counts = np.bincount(np.concatenate(labels), minlength=count)
        longest = max(len(label) for label in labels)
        self.table = np.array(
            [np.bincount([x[t] for x in labels if len(x) > t], minlength=count) for t in range(longest)]
        )

    def reset(self, tasks: Sequence[RoomTask]) -> None:
        self._step = 0
        # Its own dice per room, so that the batch size changes nothing.
        self._dice = [np.random.default_rng([self.seed, task.seed]) for task in tasks]

    def act(self, rooms: Sequence[Room], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        shares = self.counts / self.counts.sum()
        if self.name == "random":
            classes = np.array([dice.choice(len(shares), p=shares) for dice in self._dice])
        else:
            row = self.table[min(self._step, len(self.table) - 1)] if self.name == "clock" else self.counts
            classes = np.full(len(active), int(row.argmax()))
        self._step += 1
        return self.values[classes]


OPPONENTS = ("majority", "clock", "random")


# ---------------------------------------------------------------- the drive


def drive(
    driver: Driver,
    tasks: Sequence[RoomTask],
    space: ActionSpace,
    tile: int,
    batch_size: int = 50,
    seed: int = 0,
) -> list[Drive]:
    """Drive every task once, `batch_size` rooms side by side; a command counts as its nearest direction class.

    `tile`: px per cell of the frames. `seed` fixes the dice of heads that sample their actions.
    """
    drives: list[Drive] = []
    with seeded(seed, getattr(driver, "device", torch.device("cpu"))):
        for start in range(0, len(tasks), batch_size):
            drives += _drive_batch(driver, tasks[start : start + batch_size], space, tile)
    return drives


def _drive_batch(driver: Driver, tasks: Sequence[RoomTask], space: ActionSpace, tile: int) -> list[Drive]:
    rooms = [Room(task.level, tile) for task in tasks]
    for room, task in zip(rooms, tasks, strict=True):
        room.reset(task.seed, task.target)
    driver.reset(tasks)
    taken: list[list[str]] = [[] for _ in tasks]
    active = np.ones(len(rooms), dtype=bool)
    blank = np.zeros_like(rooms[0].frame())
    while active.any():
        frames = None
        if driver.looks:
            frames = np.stack([room.frame() if on else blank for room, on in zip(rooms, active, strict=True)])
        classes = space.classify(driver.act(rooms, frames, active))
        for i in np.flatnonzero(active):
            taken[i].append(space.class_names[int(classes[i])])
            rooms[i].step(taken[i][-1])
            active[i] = not rooms[i].done
    return [
        Drive(task, room.reward > 0, room.reward, tuple(steps))
        for task, room, steps in zip(tasks, rooms, taken, strict=True)
    ]


# ---------------------------------------------------------------- figures


def successes(drives: Sequence[Drive]) -> np.ndarray:
    """(N,) float, 1 where the mission was done: the unit of paired comparisons."""
    return np.array([float(drive.success) for drive in drives])


def success(drives: Sequence[Drive]) -> Estimate:
    """Share of rooms whose mission was done before the level's time-out, with Wilson's interval."""
    return wilson(sum(drive.success for drive in drives), len(drives))


def summarise(drives: Sequence[Drive], seed: int = 0) -> dict[str, Estimate]:
    """`success`; `reward`, the level's own score; `steps` to the end; `steps_excess`, where it succeeded, over the
    bot's steps as a share of them (0: as fast as the bot)."""
    excess = [len(d.classes) / d.task.bot_steps - 1 for d in drives if d.success]
    return {
        "success": success(drives),
        "reward": bootstrap_mean(np.array([d.reward for d in drives]), seed),
        "steps": bootstrap_mean(np.array([float(len(d.classes)) for d in drives]), seed),
        "steps_excess": bootstrap_mean(np.array(excess, dtype=np.float64), seed),
    }
