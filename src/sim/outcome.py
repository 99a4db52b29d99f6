"""How an episode ended, judged from the simulator's own state.

Flows in: a Task and what World recorded (collision, reached object, side per box, path). Flows out: an Outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from src.sim.route import shortest_path
from src.sim.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """The result of one episode.

    `success`: the named object reached, every box passed on the demanded side, no collision. `right_object`: the object
    reached is the named one. `right_side`: every box was passed on its demanded side, None when the task has no box.
    `side_passed`: per box "left" / "right", None when not passed. `object_reached`: index in the scene or None.
    `path_length`, `shortest_path` m; `spl` = success * shortest / max(shortest, path), 0..1; `steps` of 1/3 s.
    """

    success: bool
    collision: bool
    timeout: bool
    right_object: bool
    right_side: bool | None
    side_passed: tuple[str | None, ...]
    object_reached: int | None
    path_length: float
    shortest_path: float
    spl: float
    steps: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, ready for JSON (`side_passed` as a list)."""
        return {**asdict(self), "side_passed": list(self.side_passed)}


def judge(
    task: Task,
    collision: bool,
    timeout: bool,
    side_passed: Sequence[str | None],
    object_reached: int | None,
    path_length: float,
    steps: int,
) -> Outcome:
    """Compare what happened with what the task demands."""
    right_object = object_reached == task.target
    right_side = tuple(side_passed) == task.sides if task.sides else None
    success = right_object and right_side is not False and not collision
    shortest = shortest_path(task.scene, task.sides, task.target_thing)
    spl = shortest / max(shortest, path_length, 1e-9) if success else 0.0
    return Outcome(
        success=success,
        collision=collision,
        timeout=timeout,
        right_object=right_object,
        right_side=right_side,
        side_passed=tuple(side_passed),
        object_reached=object_reached,
        path_length=path_length,
        shortest_path=shortest,
        spl=spl,
        steps=steps,
    )
