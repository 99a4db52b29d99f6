"""A scene as a MuJoCo model: geometry, contacts, and the robot that can be placed in it.

Flows in: a Scene. Flows out: `Stage.model` / `Stage.data` for ray casting and physics, `Stage.labels` (geom id to
segmentation label). World adds dynamics and rules on top; captions use a Stage directly.
"""

from __future__ import annotations

import itertools
import math

import mujoco
import numpy as np
from numpy.typing import NDArray

from src.sim.scene import (
    BALL_RADIUS,
    CAN_HALF_HEIGHT,
    CAN_RADIUS,
    CUBE_HALF,
    OBJECT_HALF_HEIGHT,
    PEDESTAL_HEIGHT,
    PEDESTAL_RADIUS,
    ROBOT_HEIGHT,
    ROBOT_RADIUS,
    ROOM_LENGTH,
    ROOM_WIDTH,
    WALL_HEIGHT,
    Pose,
    Scene,
)

# Segmentation labels. Box j is LABEL_BOX + j, object i is LABEL_OBJECT + i.
LABEL_SKY = 0
LABEL_FLOOR = 1
LABEL_WALL = 2
LABEL_PEDESTAL = 3
LABEL_BOX = 10
LABEL_OBJECT = 20

CONTROL_PERIOD = 1 / 3  # s
SUBSTEPS = 33
TIMESTEP = CONTROL_PERIOD / SUBSTEPS  # s, about 100 Hz and an exact divisor of the control period

GROUP_ROOM = 0  # floor and walls
GROUP_ITEMS = 1  # everything that throws a shadow

_WALL_HALF = 0.05  # m
_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))


def _number(value: float) -> str:
    return repr(round(float(value), 9))


def _numbers(*values: float) -> str:
    return " ".join(_number(value) for value in values)


def _geom(
    kind: str, size: str, x: float, y: float, z: float, group: int, yaw: float = 0.0, solid: bool = True
) -> str:
    mask = 'contype="1" conaffinity="2"' if solid else 'contype="0" conaffinity="0"'
    return (
        f'<geom type="{kind}" size="{size}" pos="{_numbers(x, y, z)}" euler="0 0 {_number(yaw)}" '
        f'group="{group}" {mask}/>'
    )


def scene_xml(scene: Scene) -> tuple[str, list[int]]:
    """MJCF text of a scene and, per geom id in order, its segmentation label (-1 for the robot)."""
    # World geoms come first in id order, in the order written, then the robot's one geom.
    geoms = [_geom("plane", "0 0 1", ROOM_LENGTH / 2, ROOM_WIDTH / 2, 0, GROUP_ROOM, solid=False)]
    labels = [LABEL_FLOOR]
    half_l, half_w, half_h = ROOM_LENGTH / 2, ROOM_WIDTH / 2, WALL_HEIGHT / 2
    along_x, along_y = _numbers(half_l, _WALL_HALF, half_h), _numbers(_WALL_HALF, half_w, half_h)
    geoms += [
        _geom("box", along_x, half_l, -_WALL_HALF, half_h, GROUP_ROOM),
        _geom("box", along_x, half_l, ROOM_WIDTH + _WALL_HALF, half_h, GROUP_ROOM),
        _geom("box", along_y, -_WALL_HALF, half_w, half_h, GROUP_ROOM),
        _geom("box", along_y, ROOM_LENGTH + _WALL_HALF, half_w, half_h, GROUP_ROOM),
    ]
    labels += [LABEL_WALL] * 4
    for j, box in enumerate(scene.boxes):
        size = _numbers(box.depth / 2, box.width / 2, box.height / 2)
        geoms.append(_geom("box", size, box.x, box.y, box.height / 2, GROUP_ITEMS, box.yaw))
        labels.append(LABEL_BOX + j)
    sizes = {
        "ball": ("sphere", _numbers(BALL_RADIUS)),
        "cube": ("box", _numbers(CUBE_HALF, CUBE_HALF, CUBE_HALF)),
        "can": ("cylinder", _numbers(CAN_RADIUS, CAN_HALF_HEIGHT)),
    }
    for i, thing in enumerate(scene.things):
        kind, size = sizes[thing.shape]
        z = PEDESTAL_HEIGHT + OBJECT_HALF_HEIGHT[thing.shape]
        pedestal = _numbers(PEDESTAL_RADIUS, PEDESTAL_HEIGHT / 2)
        geoms.append(_geom("cylinder", pedestal, thing.x, thing.y, PEDESTAL_HEIGHT / 2, GROUP_ITEMS))
        geoms.append(_geom(kind, size, thing.x, thing.y, z, GROUP_ITEMS, thing.yaw))
        labels += [LABEL_PEDESTAL, LABEL_OBJECT + i]
    labels.append(-1)
    # Mass 20 kg and gain 200 N s/m give a velocity time constant of 0.1 s; the turn has the same.
    xml = f"""<mujoco model="room">
<compiler angle="radian" autolimits="true"/>
<size memory="256K"/>
<option timestep="{TIMESTEP!r}" integrator="implicitfast" gravity="0 0 0"><flag energy="disable"/></option>
<visual/>
<worldbody>
{chr(10).join(geoms)}
<body name="robot" pos="0 0 {_number(ROBOT_HEIGHT / 2 + 0.02)}">
<joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
<joint name="yaw" type="hinge" axis="0 0 1"/>
<inertial pos="0 0 0" mass="20" diaginertia="0.6 0.6 0.4"/>
<geom type="cylinder" size="{_numbers(ROBOT_RADIUS, ROBOT_HEIGHT / 2)}" contype="2" conaffinity="1" group="2"/>
</body>
</worldbody>
<actuator><velocity joint="x" kv="200"/><velocity joint="y" kv="200"/><velocity joint="yaw" kv="4"/></actuator>
</mujoco>"""
    return xml, labels


def _rotation(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix (9,) row by row of a unit quaternion (4,)."""
    matrix = np.empty((9, 1))
    mujoco.mju_quat2Mat(matrix, quaternion)
    return matrix[:, 0]


class Stage:
    """A compiled scene with the robot at a pose.

    Attributes: `scene`; `model`, `data` (MuJoCo); `labels` (n_geoms,) int32, segmentation label of each geom id;
    `robot_body` int, the body that ray casting must not see; `items` (k,) geom ids of all that stands in the room,
    `item_corners` (8 k, 3) m, the corners of the upright cuboid around each; `shadow_rectangles`, per item the
    (x0, x1, y0, y1) m on the floor outside which it throws no shadow.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        xml, labels = scene_xml(scene)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.labels = np.asarray(labels, np.int32)
        self.robot_body = 1
        self.items = np.flatnonzero(self.labels >= LABEL_PEDESTAL)
        turns = np.array([_rotation(self.model.geom_quat[geom]) for geom in self.items]).reshape(-1, 3, 3)
        half = np.einsum("kij,kj->ki", np.abs(turns), self.model.geom_aabb[self.items, 3:])
        centres = self.model.geom_pos[self.items]
        self.item_corners = (centres[:, None] + _CORNERS * half[:, None]).reshape(-1, 3)
        # Along the light, a point at height z falls z / light_z times the light's horizontal part away.
        fall = np.asarray(scene.look.light[:2]) / scene.look.light[2]
        on_floor = self.item_corners[:, :2] - self.item_corners[:, 2:] * fall
        shadow = on_floor.reshape(-1, 8, 2)
        low, high = shadow.min(axis=1) - 0.05, shadow.max(axis=1) + 0.05
        self.shadow_rectangles = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1).tolist()
        self.place(scene.start)

    def place(self, pose: Pose) -> None:
        """Put the robot at a pose (x m, y m, yaw rad), at rest."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = pose
        mujoco.mj_kinematics(self.model, self.data)

    @property
    def pose(self) -> Pose:
        """Robot pose: x m, y m, yaw rad in (-pi, pi]."""
        x, y, yaw = self.data.qpos.tolist()
        return (x, y, math.remainder(yaw, 2 * math.pi))
