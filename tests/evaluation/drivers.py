"""Drivers of known character: one that obeys the words alone, one that is deaf, one that is confused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

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
