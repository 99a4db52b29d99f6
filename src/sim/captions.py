"""Scenes and labels for learning to see: what is visible where, and free scenes with objects near and far.

Flows in: a Stage with its segmentation. Flows out: one record per visible object or box (colour, shape, bearing,
distance, pixel rectangle), and random scenes that never contain a held-out combination or look.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.core.errors import ProjectError
from src.sim.looks import object_rgb, sample_look
from src.sim.scene import ROOM_LENGTH, ROOM_WIDTH, TRAIN_COMBINATIONS, Box, Pose, Scene, Thing
from src.sim.stage import LABEL_BOX, LABEL_OBJECT, Stage

_ATTEMPTS = 400


@dataclass(frozen=True)
class SeenObject:
    """One visible thing.

    `name` is "red ball" or "box"; `colour` is None for a box, `shape` is then "box"; `index` counts within
    `scene.things` (or `scene.boxes`); `bearing` rad from the robot's heading, counter-clockwise positive; `distance` m
    from the robot's centre; `pixel_box` (left, top, right, bottom) px, right and bottom exclusive; `pixels` visible.
    """

    name: str
    colour: str | None
    shape: str
    index: int
    bearing: float
    distance: float
    pixel_box: tuple[int, int, int, int]
    pixels: int


def scene_objects(
    stage: Stage, segments: NDArray[np.int32], min_pixels: int = 6, boxes: bool = False
) -> list[SeenObject]:
    """What a picture shows, from left to right.

    `segments` (S, S) are the labels of the stage at its present pose; things of fewer than `min_pixels` are left out;
    `boxes` adds the cardboard boxes.
    """
    x, y, yaw = stage.pose
    seen = []
    for label in np.unique(segments).tolist():
        if label < LABEL_BOX or (label < LABEL_OBJECT and not boxes):
            continue
        rows, columns = np.nonzero(segments == label)
        if len(rows) < min_pixels:
            continue
        if label < LABEL_OBJECT:
            index, colour, shape, name = label - LABEL_BOX, None, "box", "box"
            dx, dy = stage.scene.boxes[index].x - x, stage.scene.boxes[index].y - y
        else:
            index = label - LABEL_OBJECT
            thing = stage.scene.things[index]
            colour, shape, name = thing.colour, thing.shape, f"{thing.colour} {thing.shape}"
            dx, dy = thing.x - x, thing.y - y
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        bearing = math.remainder(math.atan2(dy, dx) - yaw, 2 * math.pi)
        seen.append(SeenObject(name, colour, shape, index, bearing, math.hypot(dx, dy), box, len(rows)))
    return sorted(seen, key=lambda item: item.pixel_box[0] + item.pixel_box[2])


def sample_scene_for_captions(
    rng: np.random.Generator,
    objects: tuple[int, int] = (1, 5),
    boxes: tuple[int, int] = (0, 2),
    distance: tuple[float, float] = (1.0, 6.5),
    max_bearing: float = 0.62,
) -> Scene:
    """A free scene: objects and boxes anywhere in view, the robot anywhere in the room at any heading.

    `objects`, `boxes`: inclusive ranges of counts; `distance` m and `max_bearing` rad: where an object may stand, seen
    from the robot. Combinations are distinct training ones, the look is a training look. Objects neither touch nor hide
    one another; boxes are lower than the camera and hide at most the lower part of an object.
    """
    if not 0 < objects[0] <= objects[1] <= len(TRAIN_COMBINATIONS):
        raise ProjectError(
            f"sample_scene_for_captions: objects is {objects}, expected a range within 1 to {len(TRAIN_COMBINATIONS)}."
        )
    look = sample_look(rng)
    wanted = int(rng.integers(objects[0], objects[1] + 1))
    wanted_boxes = int(rng.integers(boxes[0], boxes[1] + 1))
    chosen = [TRAIN_COMBINATIONS[int(i)] for i in rng.permutation(len(TRAIN_COMBINATIONS))[:wanted]]
    pose = _sample_pose(rng, distance[0])
    things: list[Thing] = []
    # The room may not hold all of them in front of this pose; then the pose changes, not the count.
    for attempt in range(_ATTEMPTS):
        if len(things) == wanted:
            break
        if attempt % 40 == 39:
            pose, things = _sample_pose(rng, distance[0]), []
        colour, shape = chosen[len(things)]
        bearing, reach = float(rng.uniform(-max_bearing, max_bearing)), float(rng.uniform(*distance))
        angle = pose[2] + bearing
        x, y = pose[0] + reach * math.cos(angle), pose[1] + reach * math.sin(angle)
        if not (0.4 < x < ROOM_LENGTH - 0.4 and 0.4 < y < ROOM_WIDTH - 0.4):
            continue
        # Neither standing in one another nor hiding one another: apart in the plane and in bearing.
        if any(_hides(pose, (x, y), (other.x, other.y)) for other in things):
            continue
        yaw = angle + float(rng.uniform(-0.35, 0.35))
        things.append(Thing(colour, shape, x, y, yaw, object_rgb(rng, colour)))
    if not things:
        raise ProjectError(
            f"sample_scene_for_captions: no object fits at {distance} m within {max_bearing} rad; widen the ranges."
        )
    return Scene(tuple(things), _sample_boxes(rng, wanted_boxes, pose, things), look, pose)


def _hides(pose: Pose, a: tuple[float, float], b: tuple[float, float]) -> bool:
    if math.dist(a, b) < 0.75:
        return True
    near = min(math.hypot(a[0] - pose[0], a[1] - pose[1]), math.hypot(b[0] - pose[0], b[1] - pose[1]))
    between = math.atan2(a[1] - pose[1], a[0] - pose[0]) - math.atan2(b[1] - pose[1], b[0] - pose[0])
    return abs(math.remainder(between, 2 * math.pi)) < 0.32 / near + 0.06


def _sample_pose(rng: np.random.Generator, clearance: float) -> Pose:
    """Somewhere in the room, looking roughly towards a point in its middle half so that there is room ahead."""
    x, y = float(rng.uniform(0.8, ROOM_LENGTH - 0.8)), float(rng.uniform(0.8, ROOM_WIDTH - 0.8))
    middle_x = float(rng.uniform(0.25, 0.75)) * ROOM_LENGTH
    middle_y = float(rng.uniform(0.25, 0.75)) * ROOM_WIDTH
    if math.hypot(middle_x - x, middle_y - y) < clearance:
        middle_x, middle_y = ROOM_LENGTH - x, ROOM_WIDTH - y
    return x, y, math.atan2(middle_y - y, middle_x - x) + float(rng.uniform(-0.2, 0.2))


def _sample_boxes(rng: np.random.Generator, count: int, pose: Pose, things: list[Thing]) -> tuple[Box, ...]:
    """Up to `count` boxes ahead that stand clear of the robot and the objects."""
    boxes: list[Box] = []
    for _ in range(20 * count):
        if len(boxes) == count:
            break
        angle, reach = pose[2] + float(rng.uniform(-0.6, 0.6)), float(rng.uniform(1.3, 5.0))
        x, y = pose[0] + reach * math.cos(angle), pose[1] + reach * math.sin(angle)
        if not (0.8 < x < ROOM_LENGTH - 0.8 and 0.8 < y < ROOM_WIDTH - 0.8):
            continue
        others = [(thing.x, thing.y) for thing in things] + [(box.x, box.y) for box in boxes]
        if any(math.dist((x, y), other) < 1.1 for other in others):
            continue
        boxes.append(
            Box(
                x=x,
                y=y,
                yaw=angle + float(rng.uniform(-0.5, 0.5)),
                depth=float(rng.uniform(0.40, 0.75)),
                width=float(rng.uniform(0.55, 1.05)),
                height=float(rng.uniform(0.34, 0.44)),
            )
        )
    return tuple(boxes)
