"""First-person pictures and segmentation without OpenGL: rays against the MuJoCo geometry, shaded in NumPy.

Flows in: a Stage (or World). Flows out: (S, S, 3) uint8 RGB and (S, S) int32 labels from the same rays.
The camera sees 82 deg x 50 deg, squeezed into a square, as a 16:9 robot camera resized to a square is.

Floor and walls are planes, so their hit points are two divisions per pixel; only pixels inside the projected outline
of an item are given to `mj_multiRay` (twice as fast as casting all). Pixels on an object's outline are averaged over
four rays: far objects are a few pixels wide, and their shape lives there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from src.core.errors import ProjectError
from src.sim.scene import (
    CAN_HALF_HEIGHT,
    CUBE_HALF,
    PEDESTAL_HEIGHT,
    ROOM_LENGTH,
    ROOM_WIDTH,
    WALL_HEIGHT,
    Look,
)
from src.sim.stage import (
    GROUP_ITEMS,
    LABEL_FLOOR,
    LABEL_OBJECT,
    LABEL_PEDESTAL,
    LABEL_SKY,
    LABEL_WALL,
    Stage,
)

Array = NDArray[np.float64]
Single = NDArray[np.float32]

HORIZONTAL_FOV = math.radians(82)
VERTICAL_FOV = math.radians(50)
CAMERA_HEIGHT = 0.55  # m above the floor
CAMERA_FORWARD = 0.10  # m ahead of the robot's centre
CAMERA_PITCH = math.radians(7)  # downwards
_CUTOFF = 40.0  # m
_LIGHT_DISTANCE = 40.0  # m: far enough that shadows look parallel

_ITEMS_ONLY = np.zeros((6, 1), np.uint8)
_ITEMS_ONLY[GROUP_ITEMS] = 1
_SKIRTING = 0.12  # m
_FULL_LIGHT = 1.08  # brightness of a surface that faces the light

# Rows of the room's palette.
_SKY, _FIRST_WALL, _FIRST_FLOOR, _FLOOR_TONES = 0, 1, 9, 32


def camera_rays(columns: Array, rows: Array, size: int) -> Array:
    """Ray directions (n, 3), unit length, in the robot frame (x forward, y left, z up) for pixel coordinates.

    Pixel (0, 0) is the top-left corner of the image, its centre lies at (0.5, 0.5).
    """
    u = (2 * columns / size - 1) * math.tan(HORIZONTAL_FOV / 2)
    v = (2 * rows / size - 1) * math.tan(VERTICAL_FOV / 2)
    cos, sin = math.cos(CAMERA_PITCH), math.sin(CAMERA_PITCH)
    rays = np.stack([cos - v * sin, -u, -sin - v * cos], axis=-1)
    return rays / np.linalg.norm(rays, axis=-1, keepdims=True)


def project(points: Array, pose: tuple[float, float, float], size: int) -> Array:
    """Pixel coordinates (n, 2) as (column, row) of world points (n, 3) m; NaN behind the camera."""
    x, y, yaw = pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    dx, dy = points[:, 0] - x, points[:, 1] - y
    forward = cos * dx + sin * dy - CAMERA_FORWARD
    left = -sin * dx + cos * dy
    up = points[:, 2] - CAMERA_HEIGHT
    pitch_cos, pitch_sin = math.cos(CAMERA_PITCH), math.sin(CAMERA_PITCH)
    depth = pitch_cos * forward - pitch_sin * up
    height = pitch_sin * forward + pitch_cos * up
    depth = np.where(depth > 1e-6, depth, np.nan)
    columns = (1 - left / depth / math.tan(HORIZONTAL_FOV / 2)) * size / 2
    rows = (1 - height / depth / math.tan(VERTICAL_FOV / 2)) * size / 2
    return np.stack([columns, rows], axis=-1)


@dataclass(frozen=True)
class _Rays:
    """Rays in the robot frame: unit directions, one array (n,) per axis, and the distance (n,) m at which each meets
    the floor plane (inf above the horizon). float32: a pixel's place on the floor needs no more."""

    x: Single
    y: Single
    z: Single
    floor: Single

    @classmethod
    def through(cls, columns: Array, rows: Array, size: int) -> _Rays:
        x, y, z = camera_rays(columns, rows, size).T.astype(np.float32)
        with np.errstate(divide="ignore"):
            floor = np.where(z < 0, np.float32(-CAMERA_HEIGHT) / z, np.float32(np.inf)).astype(np.float32)
        return cls(np.ascontiguousarray(x), np.ascontiguousarray(y), np.ascontiguousarray(z), floor)

    def take(self, index: NDArray[np.intp]) -> _Rays:
        return _Rays(self.x[index], self.y[index], self.z[index], self.floor[index])


class Renderer:
    """Draws what the robot's camera sees. One instance serves any number of stages, one thread at a time."""

    def __init__(self, image_size: int = 96) -> None:
        if image_size < 8:
            raise ProjectError(
                f"Renderer: image_size is {image_size}, expected at least 8 pixels; raise image_size."
            )
        self.image_size = image_size
        grid = np.arange(image_size) + 0.5
        columns, rows = (axis.ravel() for axis in np.meshgrid(grid, grid))
        self._rays = _Rays.through(columns, rows, image_size)
        # A rotated grid of four samples per pixel, stored pixel by pixel.
        dx, dy = np.array([-0.375, 0.125, 0.375, -0.125]), np.array([-0.125, -0.375, 0.125, 0.375])
        self._fine = _Rays.through((columns[:, None] + dx).ravel(), (rows[:, None] + dy).ravel(), image_size)

    def render(self, stage: Stage) -> NDArray[np.uint8]:
        """Picture (S, S, 3) uint8 RGB."""
        return self.render_with_segments(stage)[0]

    def segment(self, stage: Stage) -> NDArray[np.int32]:
        """Labels (S, S) int32 of the pixel centres (LABEL_* in src.sim.stage)."""
        size = self.image_size
        hits = _cast(stage, self._rays, self._outline(stage))
        return hits.labels.reshape(size, size)

    def render_with_segments(self, stage: Stage) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Picture (S, S, 3) uint8 RGB and labels (S, S) int32 of the pixel centres, from one ray cast."""
        size = self.image_size
        hits = _cast(stage, self._rays, self._outline(stage))
        colours = _shade(stage, hits)
        labels = hits.labels.reshape(size, size)
        edge = np.flatnonzero(_object_edges(labels))
        if edge.size:
            index = (edge[:, None] * 4 + np.arange(4)).ravel()
            fine = _shade(stage, _cast(stage, self._fine.take(index), np.arange(index.size)))
            colours[edge] = fine.reshape(edge.size, 4, 3).mean(axis=1)
        image = np.clip(colours * 255 + 0.5, 0, 255).astype(np.uint8)
        return image.reshape(size, size, 3), labels

    def _outline(self, stage: Stage) -> NDArray[np.intp]:
        """Indices of the pixels inside the projected bounding rectangle of any item."""
        size = self.image_size
        mask = np.zeros((size, size), bool)
        pixels = project(stage.item_corners, stage.pose, size).reshape(-1, 8, 2)
        behind = np.isnan(pixels[:, :, 0]).sum(axis=1).tolist()
        with np.errstate(invalid="ignore"):
            first = np.clip(pixels.min(axis=1) - 1, 0, size).astype(np.intp).tolist()
            last = np.clip(pixels.max(axis=1) + 2, 0, size).astype(np.intp).tolist()
        for corners_behind, (left, top), (right, bottom) in zip(behind, first, last, strict=True):
            if corners_behind == 0:
                mask[top:bottom, left:right] = True
            elif corners_behind < 8:  # it reaches past the camera: its outline has no projection
                mask[:] = True
        return np.flatnonzero(mask)


@dataclass(frozen=True)
class _Hits:
    """What n rays met: `labels` (n,); `tones` (n,), rows of the room's palette for all that is not floor or item;
    `floor` (f,), indices into n, with their points (f,) x and y m; `items` (k,), indices into n, with geom ids (k,),
    points, normals and ray directions (k, 3)."""

    labels: NDArray[np.int32]
    tones: NDArray[np.intp]
    floor: NDArray[np.intp]
    floor_x: Single
    floor_y: Single
    items: NDArray[np.intp]
    geoms: NDArray[np.int32]
    points: Array
    normals: Array
    directions: Array


def _cast(stage: Stage, rays: _Rays, candidates: NDArray[np.intp]) -> _Hits:
    """Cast rays; only `candidates` can meet an item."""
    px, py, yaw = stage.pose
    cos, sin = math.cos(yaw), math.sin(yaw)
    x0, y0 = px + cos * CAMERA_FORWARD, py + sin * CAMERA_FORWARD
    dx, dy = cos * rays.x - sin * rays.y, sin * rays.x + cos * rays.y
    away_x, away_y = dx > 0, dy > 0
    with np.errstate(divide="ignore"):
        to_x = np.where(away_x, np.float32(ROOM_LENGTH - x0), np.float32(-x0)) / dx
        to_y = np.where(away_y, np.float32(ROOM_WIDTH - y0), np.float32(-y0)) / dy
    to_wall = np.minimum(to_x, to_y)
    height = to_wall * rays.z
    labels = np.where(rays.floor < to_wall, np.int32(LABEL_FLOOR), np.int32(LABEL_WALL))
    labels[height > WALL_HEIGHT - CAMERA_HEIGHT] = LABEL_SKY
    # Palette row of a wall: two per side, the skirting second.
    tones = (
        np.where(to_x < to_y, 2 * away_x, 4 + 2 * away_y) + (height < _SKIRTING - CAMERA_HEIGHT) + _FIRST_WALL
    )
    tones[labels == LABEL_SKY] = _SKY

    k = candidates.size
    geoms, reach, normals = np.empty((k, 1), np.int32), np.empty((k, 1)), np.empty((k, 3))
    directions = np.empty((k, 3))
    directions[:, 0], directions[:, 1], directions[:, 2] = dx[candidates], dy[candidates], rays.z[candidates]
    origin = np.array([x0, y0, CAMERA_HEIGHT])
    if k:
        mujoco.mj_multiRay(
            stage.model, stage.data, origin, directions.reshape(-1, 1), _ITEMS_ONLY, True, stage.robot_body,
            geoms, reach, normals.reshape(-1, 1), k, _CUTOFF,
        )  # fmt: skip
    met = np.flatnonzero(reach[:, 0] >= 0)
    items, geoms, directions = candidates[met], geoms[met, 0], directions[met]
    labels[items] = stage.labels[geoms]
    floor = np.flatnonzero(labels == LABEL_FLOOR)
    down = rays.floor[floor]
    return _Hits(
        labels=labels,
        tones=tones,
        floor=floor,
        floor_x=np.float32(x0) + down * dx[floor],
        floor_y=np.float32(y0) + down * dy[floor],
        items=items,
        geoms=geoms,
        points=origin + reach[met] * directions,
        normals=normals[met],
        directions=directions,
    )


@lru_cache(maxsize=256)
def _palette(look: Look) -> Single:
    """Every colour the room itself can have, (rows, 3) in 0..1: sky, walls, the floor's tones lit and in shadow."""
    light, diffuse = look.light, _FULL_LIGHT - look.ambient
    rows: list[Array] = [np.asarray(look.sky)]
    for inwards in (
        light[0],
        -light[0],
        light[1],
        -light[1],
    ):  # the walls at x = 0, x = length, y = 0, y = width
        brightness = look.ambient + diffuse * max(0.0, inwards)
        rows += [brightness * np.asarray(look.wall), brightness * np.asarray(look.skirting)]
    a, b = np.asarray(look.floor_a), np.asarray(look.floor_b)
    mix = np.linspace(0, 1, _FLOOR_TONES)[:, None]
    floor = a + (b - a) * mix
    return np.vstack([*rows, floor * (look.ambient + diffuse * light[2]), floor * look.ambient]).astype(
        np.float32
    )


def _shade(stage: Stage, hits: _Hits) -> Single:
    """Colours (n, 3) in 0..1: Lambert light, shadows on the floor, a gloss on balls."""
    look = stage.scene.look
    light = np.asarray(look.light)
    if hits.floor.size:
        mix = _floor(hits.floor_x, hits.floor_y, look)
        tones = (mix * np.float32(_FLOOR_TONES - 1)).astype(np.intp) + _FIRST_FLOOR
        tones[_shadowed(stage, hits.floor_x, hits.floor_y, light)] += _FLOOR_TONES
        hits.tones[hits.floor] = tones
    colours = np.take(_palette(look), hits.tones, axis=0)
    colours[hits.items] = _shade_items(stage, hits, light, _FULL_LIGHT - look.ambient)
    return colours


def _shade_items(stage: Stage, hits: _Hits, light: Array, diffuse: float) -> Array:
    """Colours (k, 3) of the rays that met an item."""
    scene, look = stage.scene, stage.scene.look
    colours = np.empty_like(hits.normals)
    colours[:] = look.pedestal
    gloss = np.zeros(len(colours))
    for geom, label in zip(stage.items.tolist(), stage.labels[stage.items].tolist(), strict=True):
        if label == LABEL_PEDESTAL:
            continue
        hit = np.flatnonzero(hits.geoms == geom)
        if not hit.size:
            continue
        if label < LABEL_OBJECT:
            colours[hit] = _cardboard(
                _local(stage, geom, hits.points[hit]), stage.model.geom_size[geom], look
            )
            continue
        thing = scene.things[label - LABEL_OBJECT]
        colours[hit] = thing.rgb
        if thing.shape == "cube":
            rim = _on_edge(_local(stage, geom, hits.points[hit]), np.full(3, CUBE_HALF), 0.035)
            colours[hit[rim]] *= 0.55
        elif thing.shape == "can":
            height = hits.points[hit, 2] - PEDESTAL_HEIGHT
            lid = (height < 0.05) | (height > 2 * CAN_HALF_HEIGHT - 0.05)
            colours[hit[lid]] = (0.78, 0.78, 0.80)
        else:
            seen, normal = hits.directions[hit], hits.normals[hit]
            reflected = seen - 2 * np.sum(seen * normal, axis=1, keepdims=True) * normal
            gloss[hit] = 0.5 * np.clip(reflected @ light, 0, 1) ** 12
    brightness = look.ambient + diffuse * np.clip(hits.normals @ light, 0, 1)
    return colours * brightness[:, None] + gloss[:, None]


def _shadowed(stage: Stage, x: Single, y: Single, light: Array) -> NDArray[np.intp]:
    """Indices of the floor points (n,) x, y m that an item hides from the light."""
    near = np.zeros(x.size, bool)
    # Only points inside the rectangle around some item's shadow are worth a ray.
    for x0, x1, y0, y1 in stage.shadow_rectangles:
        near |= (x > x0) & (x < x1) & (y > y0) & (y < y1)
    index = np.flatnonzero(near)
    if not index.size:
        return index
    source = np.array([ROOM_LENGTH / 2, ROOM_WIDTH / 2, 0.0]) + _LIGHT_DISTANCE * light
    rays = np.empty((index.size, 3))
    rays[:, 0], rays[:, 1], rays[:, 2] = x[index] - source[0], y[index] - source[1], -source[2]
    geoms, reach = np.empty((index.size, 1), np.int32), np.empty((index.size, 1))
    # The direction spans source to floor, so a hit before 1 lies between them.
    mujoco.mj_multiRay(
        stage.model, stage.data, source, rays.reshape(-1, 1), _ITEMS_ONLY, True, stage.robot_body,
        geoms, reach, None, index.size, 2 * _LIGHT_DISTANCE,
    )  # fmt: skip
    return index[(reach[:, 0] >= 0) & (reach[:, 0] < 1 - 1e-6)]


def _object_edges(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels (S, S) with a neighbour of another label, where one of the two is an object."""
    edge = np.zeros(labels.shape, bool)
    across = (labels[:, 1:] != labels[:, :-1]) & (np.maximum(labels[:, 1:], labels[:, :-1]) >= LABEL_OBJECT)
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    down = (labels[1:] != labels[:-1]) & (np.maximum(labels[1:], labels[:-1]) >= LABEL_OBJECT)
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _local(stage: Stage, geom: int, points: Array) -> Array:
    """World points (n, 3) in the frame of a geom."""
    return (points - stage.data.geom_xpos[geom]) @ stage.data.geom_xmat[geom].reshape(3, 3)


def _on_edge(local: Array, half: Array, width: float) -> NDArray[np.bool_]:
    """Points on a box surface that lie within `width` m of one of its edges."""
    return np.sum(half - np.abs(local) < width, axis=1) >= 2


def _cardboard(local: Array, half: Array, look: Look) -> Array:
    """Brown with darker edges and a strip of pale tape along the middle of the width."""
    albedo = np.empty_like(local)
    albedo[:] = look.box
    albedo[np.abs(local[:, 1]) < 0.04] = np.minimum(np.asarray(look.box) * 1.3, 1.0)
    albedo[_on_edge(local, half, 0.03)] *= 0.6
    return albedo


def _hash(a: NDArray[np.int32], b: NDArray[np.int32]) -> Single:
    """A repeatable pseudo-random number in 0..1 per pair of small non-negative integers (n,)."""
    mixed = (a * np.int32(7919) ^ b * np.int32(10473)) & np.int32(0xFFFF)
    mixed = ((mixed ^ (mixed >> 5)) * np.int32(27893)) & np.int32(0xFFFF)
    return (mixed ^ (mixed >> 7)).astype(np.float32) * np.float32(1 / 0xFFFF)


def _floor(x: Single, y: Single, look: Look) -> Single:
    """Share (n,) in 0..1 of the second floor colour at floor points (n,) m."""
    cell = np.float32(1 / look.floor_scale)
    if look.floor == "checker":
        return (((x * cell).astype(np.int32) + (y * cell).astype(np.int32)) & 1).astype(np.float32)
    if look.floor == "planks":
        across = (y * (cell * np.float32(2.5))).astype(np.int32)
        along = (x * (cell / np.float32(3)) + across * np.float32(0.37)).astype(np.int32)
        return _hash(along, across)
    if look.floor == "speckle":
        fine = cell * np.float32(4)
        return _hash((x * fine).astype(np.int32), (y * fine).astype(np.int32))
    column, row = x * cell, y * cell
    i, j = column.astype(np.int32), row.astype(np.int32)
    joint = (column - i < 0.06) | (row - j < 0.06)
    return np.where(joint, np.float32(1), np.float32(0.4) * _hash(i, j))
