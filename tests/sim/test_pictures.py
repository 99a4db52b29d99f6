"""Pictures and labels against a slow reference that casts every ray at every geom, and against plain geometry."""

import math

import mujoco
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.sim import Renderer, Stage, World, sample_task
from src.sim.captions import sample_scene_for_captions, scene_objects
from src.sim.renderer import CAMERA_FORWARD, CAMERA_HEIGHT, camera_rays, project
from src.sim.scene import (
    HELD_OUT_COMBINATIONS,
    OBJECT_HALF_HEIGHT,
    OBJECT_RGB,
    PEDESTAL_HEIGHT,
    ROOM_LENGTH,
    ROOM_WIDTH,
)
from src.sim.stage import LABEL_BOX, LABEL_FLOOR, LABEL_OBJECT, LABEL_SKY, LABEL_WALL


def reference_labels(stage, size):
    """One single-ray query per pixel against all geoms."""
    x, y, yaw = stage.pose
    turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])
    origin = np.array([x, y, CAMERA_HEIGHT]) + turn @ np.array([CAMERA_FORWARD, 0, 0])
    labels = np.empty((size, size), int)
    hit = np.empty((1, 1), np.int32)
    for row in range(size):
        for column in range(size):
            ray = turn @ camera_rays(np.array([column + 0.5]), np.array([row + 0.5]), size)[0]
            mujoco.mj_ray(stage.model, stage.data, origin, ray, None, True, stage.robot_body, hit)
            labels[row, column] = stage.labels[hit[0, 0]] if hit[0, 0] >= 0 else LABEL_SKY
    return labels


def scenes(count):
    rng = np.random.default_rng(0)
    free = [Stage(sample_scene_for_captions(rng)) for _ in range(count)]
    return free + [Stage(sample_task("full2", "train", i).scene) for i in range(2)]


def test_labels_equal_a_ray_by_ray_reference():
    size = 24
    renderer = Renderer(size)
    stages = scenes(4)
    stages[0].place((5.0, 7.5, 1.2))  # close to a wall, which fills the picture
    for stage in stages:
        fast, slow = renderer.segment(stage), reference_labels(stage, size)
        # Only rays that graze a wall's foot or top may differ: float32 against float64.
        different = fast != slow
        assert different.mean() < 0.004
        assert set(fast[different]) <= {LABEL_FLOOR, LABEL_WALL, LABEL_SKY}


def test_segment_equals_the_combined_call_and_render_its_picture():
    renderer = Renderer(48)
    for stage in scenes(3):
        image, labels = renderer.render_with_segments(stage)
        assert image.dtype == np.uint8 and image.shape == (48, 48, 3)
        assert np.array_equal(labels, renderer.segment(stage))
        assert np.array_equal(image, renderer.render(stage))


def test_a_renderer_keeps_nothing_between_pictures():
    stages = scenes(3)
    shared = Renderer(32)
    first = [shared.render(stage) for stage in stages]
    again = [shared.render(stage) for stage in reversed(stages)][::-1]
    fresh = [Renderer(32).render(stage) for stage in stages]
    assert np.array_equal(first, again) and np.array_equal(first, fresh)


def test_object_pixels_have_the_objects_hue():
    renderer = Renderer(96)
    seen = set()
    for stage in scenes(25):
        image, labels = renderer.render_with_segments(stage)
        for item in scene_objects(stage, labels, min_pixels=40):
            pixels = image[labels == LABEL_OBJECT + item.index].astype(float)
            median = np.median(pixels, axis=0)
            nearest = min(OBJECT_RGB, key=lambda name: _hue_distance(median, np.array(OBJECT_RGB[name])))
            assert nearest == item.colour
            seen.add(item.colour)
    assert seen == set(OBJECT_RGB)


def _hue_distance(a, b):
    return np.linalg.norm(a / np.linalg.norm(a) - b / np.linalg.norm(b))


def test_centres_project_into_their_own_pixels():
    renderer = Renderer(96)
    for stage in scenes(10):
        labels = renderer.segment(stage)
        for item in scene_objects(stage, labels, min_pixels=30):
            thing = stage.scene.things[item.index]
            centre = np.array([[thing.x, thing.y, PEDESTAL_HEIGHT + OBJECT_HALF_HEIGHT[thing.shape]]])
            column, row = project(centre, stage.pose, 96)[0]
            left, top, right, bottom = item.pixel_box
            if left > 0 and right < 96 and top > 0:
                assert left <= column <= right
                assert top <= row <= bottom + 1
                # Left in the picture is a positive bearing.
                assert item.bearing == pytest.approx(
                    math.atan((48 - column) / 48 * math.tan(math.radians(41))),
                    abs=0.08 + 0.15 / item.distance,
                )
            box = np.argwhere(labels == LABEL_OBJECT + item.index)
            assert (box.min(0)[::-1] == (left, top)).all() and (box.max(0)[::-1] + 1 == (right, bottom)).all()
            assert item.pixels == len(box)


@pytest.mark.parametrize("suite", ["reach", "full1", "full2"])
@pytest.mark.parametrize("size", [64, 96])
def test_every_object_shows_its_shape_at_the_start(suite, size):
    renderer = Renderer(size)
    for i in range(12):
        task = sample_task(suite, "train", i)
        stage = Stage(task.scene)
        labels = renderer.segment(stage)
        assert len(scene_objects(stage, labels, min_pixels=6 if size == 64 else 16)) == 3


def test_the_camera_moves_with_the_robot():
    world = World(sample_task("reach", "train", 1))
    renderer = Renderer(64)

    def column():
        return np.argwhere(renderer.segment(world) == LABEL_OBJECT + world.task.target)[:, 1].mean()

    x, y, yaw = world.pose
    world.place((x, y, 0.0))
    middle = column()
    world.place((x, y, 0.2))
    assert column() > middle + 5, "turning left moves the world to the right"
    world.place((x, y + 0.5, 0.0))
    assert column() > middle + 2, "stepping left moves the world to the right"


def test_scene_objects_lists_from_left_to_right_with_and_without_boxes():
    stage = Stage(sample_task("full2", "train", 0).scene)
    labels = Renderer(96).segment(stage)
    plain = scene_objects(stage, labels)
    assert [item.name for item in plain] == [
        item.name for item in scene_objects(stage, labels, boxes=True) if item.colour
    ]
    assert [item.bearing for item in plain] == sorted((item.bearing for item in plain), reverse=True)
    assert {item.name for item in scene_objects(stage, labels, boxes=True)} > {"box"}
    for item in plain:
        thing = stage.scene.things[item.index]
        assert item.distance == pytest.approx(math.dist((thing.x, thing.y), stage.pose[:2]))
        assert labels[labels == LABEL_OBJECT + item.index].size == item.pixels
    assert (labels >= LABEL_BOX).any()


def test_free_scenes_keep_their_promises():
    rng = np.random.default_rng(7)
    renderer = Renderer(96)
    counts = set()
    shown = total = 0
    for _ in range(120):
        scene = sample_scene_for_captions(rng)
        counts.add((len(scene.things), len(scene.boxes)))
        combinations = [thing.combination for thing in scene.things]
        assert len(set(combinations)) == len(combinations)
        assert not set(combinations) & set(HELD_OUT_COMBINATIONS)
        assert scene.look.floor != "tiles", "held-out looks stay held out"
        for thing in scene.things:
            assert 0 < thing.x < ROOM_LENGTH and 0 < thing.y < ROOM_WIDTH
            assert 0.99 <= math.dist((thing.x, thing.y), scene.start[:2]) <= 6.51
        stage = Stage(scene)
        total += len(scene.things)
        shown += len(scene_objects(stage, renderer.segment(stage)))
    assert {n for n, _ in counts} == {1, 2, 3, 4, 5} and {b for _, b in counts} == {0, 1, 2}
    assert shown / total > 0.97


def test_free_scenes_refuse_impossible_counts():
    with pytest.raises(ProjectError, match="objects is"):
        sample_scene_for_captions(np.random.default_rng(0), objects=(1, 9))
    with pytest.raises(ProjectError, match="image_size is 4"):
        Renderer(4)
