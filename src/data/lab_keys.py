"""Owns the lab's keyboard: which axes its recorder commands, and the direction class each key stands for.

In: nothing. Out: `AXES` and `KEYS`, the action space that conf/data/action/lab_keys.yaml offers to a training (a test
holds the two equal). The readers need it without a config, to name the actions in a file.
"""

from src.data.actions import ActionSpace

AXES = ("linear_x", "linear_y", "angular_z")
"""Forward, left, counter-clockwise; the order in which the project has them (ROS REP-103)."""

UNITS = {"linear_x": "m/s", "linear_y": "m/s", "angular_z": "rad/s"}

KEYS = ActionSpace(
    names=AXES,
    units=tuple(UNITS[axis] for axis in AXES),
    low=(-1.15,) * 3,
    high=(1.15,) * 3,
    control_period=0.4,
    classes={
        "stop": (0, 0, 0),
        "forward": (1, 0, 0),  # w
        "backward": (-1, 0, 0),  # s
        "left": (0, 1, 0),  # a
        "right": (0, -1, 0),  # d
        "forward_left": (1, 1, 0),  # q
        "forward_right": (1, -1, 0),  # e
        "backward_left": (-1, 1, 0),  # z
        "backward_right": (-1, -1, 0),  # c
        "rotate_left": (0, 0, 1),  # r
        "rotate_right": (0, 0, -1),  # t
    },
)
