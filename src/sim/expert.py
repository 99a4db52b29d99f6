"""The driver that shows how it is done: two waypoints beside each box on the demanded side, then the object.

Flows in: a World. Flows out: a command (3,) SI. It looks at the named object while it drives (the base is holonomic),
so the picture keeps the goal in the middle and the side shows in linear_y. It has no memory: the same pose gives the
same command, which is what a policy that imitates it can learn.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from src.sim.route import LATERAL_MARGIN, Point, beside, half_extents
from src.sim.world import COMMAND_LIMIT, World

SPEED = 1.0  # m/s
TURN_GAIN = 1.5  # rad/s per rad of bearing
_PASSED = 0.15  # m before a waypoint at which the next one becomes the aim
_TOO_CLOSE = 0.15  # m of the lateral margin that may be lost before the robot first moves aside


class Expert:
    """Drives one world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def act(self) -> NDArray[np.float32]:
        """Command (3,) for the world's present pose: linear_x m/s, linear_y m/s, angular_z rad/s."""
        x, y, yaw = self.world.pose
        aim_x, aim_y = self._aim(x, y)
        angle = math.atan2(aim_y - y, aim_x - x) - yaw
        target = self.world.task.target_thing
        bearing = math.remainder(math.atan2(target.y - y, target.x - x) - yaw, 2 * math.pi)
        turn = max(-COMMAND_LIMIT, min(COMMAND_LIMIT, TURN_GAIN * bearing))
        return np.array([SPEED * math.cos(angle), SPEED * math.sin(angle), turn], np.float32)

    def _aim(self, x: float, y: float) -> Point:
        """The point (m) to drive at: the first waypoint not yet behind, else the object."""
        task = self.world.task
        for box, side in zip(task.scene.boxes, task.sides, strict=True):
            before, behind = beside(box, side)
            if x >= behind[0] - _PASSED:
                continue
            if x < before[0] - _PASSED:
                return before
            sign = 1.0 if side == "left" else -1.0
            clearance = sign * (y - box.y) - half_extents(box)[1]
            if clearance < LATERAL_MARGIN - _TOO_CLOSE:
                # Pushed towards the box: aside first, and a little back while still in front of it.
                return (min(x, before[0]) if x < box.x else x), before[1]
            return behind
        return task.target_thing.x, task.target_thing.y
