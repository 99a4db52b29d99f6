"""Drivers whose nature is known: one does what it is told, one is deaf, one breaks down under other words."""

from collections.abc import Sequence

import numpy as np

from src.external.driving import RoomTask
from src.external.levels import COMMANDS, Room, bot_drive


class Puppet:
    """The bot as a driver. `hears`: goes to what the words name; else always to what the level itself demands."""

    looks = False
    name = "puppet"

    def __init__(self, hears: bool, gives_up: bool = False) -> None:
        self.hears, self.gives_up = hears, gives_up

    def reset(self, tasks: Sequence[RoomTask]) -> None:
        self.plans = [self._plan(task) for task in tasks]

    def _plan(self, task: RoomTask) -> list[str]:
        colour, kind = task.instruction.split()[-2:]
        told = (colour, kind)
        if self.gives_up and told != task.own:
            return []
        room = Room(task.level)
        room.reset(task.seed, told if self.hears else task.own)
        return list(bot_drive(room).steps)

    def act(self, rooms: Sequence[Room], frames: np.ndarray | None, active: np.ndarray) -> np.ndarray:
        return np.array([COMMANDS[plan.pop(0) if plan else "stop"] for plan in self.plans])
