"""Drivers of known character: obedient, deaf, blind (the words and the time), a clock (the time), clumsy listeners."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from src.evaluation.driving.closed_loop import Rollout
from src.sim import Expert, Task, World
from src.sim.scene import COLOURS, SHAPES


def understood(task: Task) -> Task:
    """The task as somebody would understand it who has only the words and the room (English, one box at most)."""
    words = task.instruction.replace(",", " ").split()
    sides = [word for word in words if word in ("left", "right")][: len(task.scene.boxes)]
    named = [i for i, thing in enumerate(task.scene.things) if thing.colour in words and thing.shape in words]
    sides += ["left"] * (len(task.scene.boxes) - len(sides))  # said nothing: always left
    assert set(words) & set(COLOURS + SHAPES) or not named
    return replace(task, sides=tuple(sides), target=named[0] if named else 0)


class Obedient:
    """Does what the words say and knows nothing of what is demanded."""

    name, looks, omniscient = "obedient", False, True

    def hear(self, task: Task) -> Task:
        return understood(task)

    def reset(self, tasks: Sequence[Task]) -> None:
        self.heard = [self.hear(task) for task in tasks]

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        actions = np.zeros((len(worlds), 3), dtype=np.float32)
        for i in np.flatnonzero(active):
            actions[i] = Expert(SimpleNamespace(task=self.heard[i], pose=worlds[i].pose)).act()  # type: ignore[arg-type]
        return actions


class Deaf(Obedient):
    """Drives as well as the expert, always left around the box and to the first object, whatever is said."""

    name = "deaf"

    def hear(self, task: Task) -> Task:
        return replace(task, sides=("left",) * len(task.scene.boxes), target=0)


class Clock(Obedient):
    """The mean command at each time step of the drives it was shown; it neither hears nor sees."""

    name = "clock"

    def __init__(self, drives: Sequence[Rollout]) -> None:
        self.habits = {"": _by_time([drive.actions for drive in drives])}

    def habit(self, task: Task) -> np.ndarray:
        return self.habits[""]

    def reset(self, tasks: Sequence[Task]) -> None:
        self.routines = [self.habit(self.hear(task)) for task in tasks]
        self.t = 0

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        actions = [routine[min(self.t, len(routine) - 1)] for routine in self.routines]
        self.t += 1
        return np.where(active[:, None], actions, 0.0).astype(np.float32)


class Blind(Clock):
    """The mean command at each time step of the drives on the side that it is told; it hears and does not see."""

    name = "blind"

    def __init__(self, drives: Sequence[Rollout]) -> None:
        self.habits = {
            side: _by_time([drive.actions for drive in drives if drive.task.sides[0] == side])
            for side in ("left", "right")
        }

    def habit(self, task: Task) -> np.ndarray:
        return self.habits[task.sides[0]]


class Clumsy:
    """Hears the words and hardly drives: always forward at 1 m/s, and `sideways` m/s towards the side that is said.

    It runs into most boxes; those it passes it passes on the side it was told.
    """

    name, looks, omniscient = "clumsy", False, False

    def __init__(self, sideways: float) -> None:
        self.sideways = sideways

    def reset(self, tasks: Sequence[Task]) -> None:
        towards = {"left": self.sideways, "right": -self.sideways}
        said = [[towards[word] for word in task.instruction.split() if word in towards] for task in tasks]
        self.commands = np.array(
            [(1.0, words[0] if len(words) == 1 else 0.0, 0.0) for words in said], np.float32
        )

    def act(self, worlds: Sequence[World], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        return self.commands


def _by_time(drives: Sequence[np.ndarray]) -> np.ndarray:
    """(T_i, A) of several drives → (max T, A), the mean over those still driving."""
    longest = max(len(actions) for actions in drives)
    return np.array([np.mean([a[t] for a in drives if len(a) > t], axis=0) for t in range(longest)])
