"""One episode of one task: physics, rules of ending, and what must be remembered to judge it.

Flows in: a Task and body-frame velocity commands (linear_x m/s, linear_y m/s, angular_z rad/s) at 3 Hz. Flows out:
pose, `done`, Outcome. An episode ends on any contact, within REACH_RADIUS of any object (the named one or not), or
after MAX_STEPS steps.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from src.core.errors import ProjectError
from src.sim.outcome import Outcome, judge
from src.sim.scene import REACH_RADIUS, Pose
from src.sim.stage import SUBSTEPS, Stage
from src.sim.tasks import MAX_STEPS, Task

COMMAND_LIMIT = 1.15  # m/s and rad/s, each axis


class World(Stage):
    """A task being driven. `task`, `pose`, `done`, `steps`, `path_length` (m) may be read at any time."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.scene)
        self.task = task
        self._goals = [(thing.x, thing.y) for thing in task.scene.things]
        self.reset()

    def reset(self, start: Pose | None = None) -> None:
        """Back to the beginning; `start` (x m, y m, yaw rad) replaces the scene's own start pose."""
        self.place(self.task.scene.start if start is None else start)
        self.steps = 0
        self.done = False
        self.path_length = 0.0
        self.collision = False
        self.object_reached: int | None = None
        self._side_passed: list[str | None] = [None] * len(self.task.scene.boxes)

    def step(self, action: ArrayLike) -> None:
        """Hold one command for 1/3 s. `action` (3,) SI units, clipped to the limits; non-finite values are refused."""
        if self.done:
            raise ProjectError("World.step: the episode is over, expected a running one; call reset() first.")
        command = np.asarray(action, np.float64)
        if command.shape != (3,) or not np.isfinite(command).all():
            raise ProjectError(
                f"World.step: action is {action!r}, expected three finite numbers (m/s, m/s, rad/s); check the policy."
            )
        ahead, left, turn = np.clip(command, -COMMAND_LIMIT, COMMAND_LIMIT).tolist()
        data, model = self.data, self.model
        x, y, yaw = data.qpos.tolist()
        for _ in range(SUBSTEPS):
            cos, sin = math.cos(yaw), math.sin(yaw)
            data.ctrl[:] = (cos * ahead - sin * left, sin * ahead + cos * left, turn)
            mujoco.mj_step(model, data)
            old_x, old_y = x, y
            x, y, yaw = data.qpos.tolist()
            self.path_length += math.hypot(x - old_x, y - old_y)
            self._watch_boxes(old_x, x, y)
            # Only the robot moves, so any contact is the robot's.
            if data.ncon:
                self.collision = self.done = True
                break
            reached = [i for i, goal in enumerate(self._goals) if math.dist((x, y), goal) < REACH_RADIUS]
            if reached:
                self.object_reached, self.done = reached[0], True
                break
        mujoco.mj_kinematics(model, data)
        self.steps += 1
        if self.steps >= MAX_STEPS:
            self.done = True

    def _watch_boxes(self, old_x: float, x: float, y: float) -> None:
        """Remember the side at each forward crossing of a box's centre line; driving back undoes it."""
        for j, box in enumerate(self.task.scene.boxes):
            if old_x < box.x <= x:
                self._side_passed[j] = "left" if y > box.y else "right"
            elif x < box.x <= old_x:
                self._side_passed[j] = None

    @property
    def timeout(self) -> bool:
        return self.done and not self.collision and self.object_reached is None

    def outcome(self) -> Outcome:
        """The judgement as things stand; final once `done`."""
        return judge(
            self.task, self.collision, self.timeout, self._side_passed, self.object_reached,
            self.path_length, self.steps,
        )  # fmt: skip
