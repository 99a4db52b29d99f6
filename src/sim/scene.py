"""What stands in the room: objects, boxes, looks and their sizes.

Owns the plain descriptions (frozen dataclasses) and the fixed geometry of the simulator. Nothing flows in; tasks.py and
captions.py fill these descriptions, world.py turns them into a MuJoCo model, renderer.py into pictures.

Frame: x forward from the start wall, y left, z up, metres; yaw counter-clockwise in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

Rgb = tuple[float, float, float]  # linear 0..1, no gamma
Pose = tuple[float, float, float]  # x m, y m, yaw rad

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("ball", "cube", "can")

# One combination per colour; every colour and every shape still occurs at least twice in training, so the held-out
# pairs test whether colour and shape words are combined, not whether they are known.
HELD_OUT_COMBINATIONS: tuple[tuple[str, str], ...] = (
    ("red", "cube"),
    ("green", "can"),
    ("blue", "ball"),
    ("yellow", "cube"),
)
TRAIN_COMBINATIONS: tuple[tuple[str, str], ...] = tuple(
    (colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in HELD_OUT_COMBINATIONS
)

ROOM_LENGTH = 10.0  # m along x
ROOM_WIDTH = 8.0  # m along y
WALL_HEIGHT = 1.7  # m
START: Pose = (1.0, ROOM_WIDTH / 2, 0.0)  # nominal start, before jitter

ROBOT_RADIUS = 0.2  # m
ROBOT_HEIGHT = 0.45  # m
# m, robot centre to object centre: larger than any object plus the robot, so reaching precedes contact
REACH_RADIUS = 0.6

PEDESTAL_RADIUS = 0.30  # m
PEDESTAL_HEIGHT = 0.20  # m
BALL_RADIUS = 0.28  # m
CUBE_HALF = 0.25  # m; half diagonal 0.354 + robot 0.2 < REACH_RADIUS
CAN_RADIUS = 0.19  # m
CAN_HALF_HEIGHT = 0.40  # m; taller than the others, so the silhouette alone tells it

OBJECT_HALF_HEIGHT = {"ball": BALL_RADIUS, "cube": CUBE_HALF, "can": CAN_HALF_HEIGHT}

# Saturated and far apart in hue; nothing else in the room is saturated.
OBJECT_RGB: dict[str, Rgb] = {
    "red": (0.90, 0.07, 0.07),
    "green": (0.05, 0.68, 0.12),
    "blue": (0.08, 0.18, 0.95),
    "yellow": (0.98, 0.86, 0.04),
}


@dataclass(frozen=True)
class Thing:
    """One coloured object on a pedestal: position (m), yaw (rad), drawn colour."""

    colour: str
    shape: str
    x: float
    y: float
    yaw: float
    rgb: Rgb

    @property
    def combination(self) -> tuple[str, str]:
        return (self.colour, self.shape)


@dataclass(frozen=True)
class Box:
    """One cardboard box: centre (m), yaw (rad), depth along x, width along y, height (m)."""

    x: float
    y: float
    yaw: float
    depth: float
    width: float
    height: float


@dataclass(frozen=True)
class Look:
    """Appearance without meaning: floor, walls, light, tint of the cardboard."""

    floor: str  # "checker" | "planks" | "speckle" | "tiles"
    floor_a: Rgb
    floor_b: Rgb
    floor_scale: float  # m, size of one texture cell
    wall: Rgb
    skirting: Rgb
    sky: Rgb
    box: Rgb
    pedestal: Rgb
    light: tuple[float, float, float]  # unit vector from the room towards the light
    ambient: float  # share of the light that comes from everywhere


@dataclass(frozen=True)
class Scene:
    """A whole room with the robot's start pose."""

    things: tuple[Thing, ...]
    boxes: tuple[Box, ...]
    look: Look
    start: Pose = START
