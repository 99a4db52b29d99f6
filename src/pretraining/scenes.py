"""Labelled pictures for pre-training.

In: the simulator's scenes. Out: a `SceneSet` of arrays: pictures, what each image patch and each image column shows,
and the boxes around everything visible. Labels are read from the ray cast that draws the picture.
"""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.core.files import atomic_path
from src.sim.captions import sample_scene_for_captions, scene_objects
from src.sim.renderer import Renderer
from src.sim.scene import COLOURS, SHAPES
from src.sim.stage import LABEL_BOX, LABEL_OBJECT, Stage
from src.sim.tasks import sample_task

MAX_ITEMS = 7
"""Objects and cardboard boxes kept per picture, the nearest first."""
BOX_CLASS = len(COLOURS) * len(SHAPES)
"""Class number of a cardboard box; objects are colour * len(SHAPES) + shape."""
NOTHING = -1
MIN_PIXELS = 8
"""An item of fewer pixels (of 96 x 96) is called invisible: a person cannot name it either."""
_CHUNK = 250


@dataclass
class SceneSet:
    """`n` labelled pictures of side `s` px, on a grid of `g` x `g` patches and `c` columns.

    Attributes:
        frames: (n, s, s, 3) uint8 RGB.
        patches: (n, g, g) int8, class that fills most of a patch, -1 nothing.
        columns: (n, c) int8, object class that fills most of an image column, -1 none.
        column_box: (n, c) float16, 1 / distance (1/m) of the box in that column, 0 where none.
        items: (n, MAX_ITEMS) int8 class, -1 where empty; sorted by distance.
        bounds: (n, MAX_ITEMS, 4) float32, left, top, right, bottom over s, 0 to 1.
    """

    frames: NDArray[np.uint8]
    patches: NDArray[np.int8]
    columns: NDArray[np.int8]
    column_box: NDArray[np.float16]
    items: NDArray[np.int8]
    bounds: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frames)


def render_scenes(
    path: Path, count: int, seed: int, image_size: int, patch_size: int, columns: int, workers: int
) -> SceneSet:
    """`count` labelled pictures, read from `path` where a former call left them there.

    The same arguments give the same pictures whatever the number of workers.
    """
    if not path.exists():
        jobs = [
            (seed, start, min(_CHUNK, count - start), image_size, patch_size, columns)
            for start in range(0, count, _CHUNK)
        ]
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            parts = pool.starmap(_render_chunk, jobs)
        merged: dict[str, Any] = {
            f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(SceneSet)
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **merged)
    with np.load(path) as stored:
        return SceneSet(**{f.name: stored[f.name] for f in fields(SceneSet)})


def _render_chunk(
    seed: int, start: int, count: int, image_size: int, patch_size: int, columns: int
) -> SceneSet:
    renderer = Renderer(image_size)
    rows = [
        _render_one(renderer, np.random.default_rng([seed, start + i]), patch_size, columns)
        for i in range(count)
    ]
    return SceneSet(*(np.stack(column) for column in zip(*rows, strict=True)))


def _render_one(
    renderer: Renderer, rng: np.random.Generator, patch_size: int, columns: int
) -> tuple[NDArray[Any], ...]:
    stage = _random_view(rng)
    frame, labels = renderer.render_with_segments(stage)
    size = renderer.image_size
    patches = np.full((size // patch_size, size // patch_size), NOTHING, np.int8)
    column_class, column_box = np.full(columns, NOTHING, np.int8), np.zeros(columns, np.float16)
    largest_patch = np.full(patches.shape, MIN_PIXELS // 2)
    largest_column = np.full(columns, MIN_PIXELS // 4)
    items, bounds = np.full(MAX_ITEMS, NOTHING, np.int8), np.zeros((MAX_ITEMS, 4), np.float32)
    seen = sorted(scene_objects(stage, labels, MIN_PIXELS, boxes=True), key=lambda item: item.distance)
    for i, item in enumerate(seen):
        kind = class_number(item.colour, item.shape)
        if i < MAX_ITEMS:
            items[i], bounds[i] = kind, np.array(item.pixel_box) / size
        mask = labels == (LABEL_BOX if item.colour is None else LABEL_OBJECT) + item.index
        area = mask.reshape(patches.shape[0], patch_size, patches.shape[1], patch_size).sum(axis=(1, 3))
        patches[area > largest_patch] = kind
        largest_patch = np.maximum(largest_patch, area)
        area = mask.reshape(size, columns, size // columns).sum(axis=(0, 2))
        if kind == BOX_CLASS:
            nearness = np.where(area > size // columns, 1.0 / item.distance, 0.0)
            column_box = np.maximum(column_box, nearness.astype(np.float16))
        else:
            column_class[area > largest_column] = kind
            largest_column = np.maximum(largest_column, area)
    return frame, patches, column_class, column_box, items, bounds


def class_number(colour: str | None, shape: str) -> int:
    """Number of an object's class; a cardboard box has no colour word."""
    return BOX_CLASS if colour is None else COLOURS.index(colour) * len(SHAPES) + SHAPES.index(shape)


def _random_view(rng: np.random.Generator) -> Stage:
    """Half the time a free scene with many things, else a room of the tasks seen from anywhere along the way."""
    if rng.random() < 0.5:
        return Stage(sample_scene_for_captions(rng))
    suite = ("reach", "full1", "full2", "full1")[int(rng.integers(4))]
    scene = sample_task(suite, "train", int(rng.integers(10**6, 10**9))).scene
    stage = Stage(scene)
    progress = rng.uniform(0.0, 0.9) ** 1.2
    goal = scene.things[int(rng.integers(len(scene.things)))]
    x = scene.start[0] + progress * (goal.x - scene.start[0])
    y = scene.start[1] + progress * (goal.y - scene.start[1]) + rng.normal(0.0, 0.7)
    facing = math.atan2(goal.y - y, goal.x - x)
    stage.place((float(x), float(np.clip(y, 0.4, 7.6)), float(facing + rng.normal(0.0, 0.35))))
    return stage
