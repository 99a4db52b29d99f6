"""Films and sheets: what is shown is what happened, in a format that plays, whatever encoders the machine has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from src.core.errors import ProjectError
from src.deploy.predictor import BatchedPredictor
from src.evaluation.driving import drawing, video
from src.evaluation.driving.closed_loop import PolicyController, Rollout, Suite, drive
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.drivers import Deaf

PERIOD = SPACE.control_period


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    return drive(Deaf(), Suite("full1", "layout", 6).tasks(), 16)


def test_best_comes_first_and_ties_are_broken_by_the_distance_left(rollouts: list[Rollout]) -> None:
    order = video.ranked(rollouts[::-1])
    assert sorted(r.index for r in order) == list(range(6))
    assert [r.outcome.success for r in order] == sorted((r.outcome.success for r in order), reverse=True)
    failed = [r for r in order if not r.outcome.success]
    left = [np.hypot(*(r.poses[-1, :2] - (r.task.target_thing.x, r.task.target_thing.y))) for r in failed]
    assert left == sorted(left) and len(failed) > 1


def test_a_replay_shows_what_the_policy_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    predictor = BatchedPredictor(toy_policy(), 16)
    original = predictor.step
    monkeypatch.setattr(
        predictor, "step", lambda frames, active: seen.append(frames[0].copy()) or original(frames, active)
    )
    rollout = drive(PolicyController(predictor), Suite("full1", "layout", 1).tasks(), 16)[0]
    np.testing.assert_array_equal(video.replay(rollout, 16)[:-1], np.stack(seen))
    moved = replace(rollout, poses=rollout.poses + 0.1)
    with pytest.raises(ProjectError, match="simulator has changed"):
        video.replay(moved, 16)


def test_an_mp4_plays_at_the_robots_pace(rollouts: list[Rollout], tmp_path: Path) -> None:
    pictures = video.film(rollouts[0], 16, 96, SPACE.scale, PERIOD, "title")
    assert len(pictures) == len(rollouts[0].actions) + 1
    path = video.encode(tmp_path / "film", pictures, PERIOD)
    assert path.suffix == ".mp4"
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(decoded) == len(pictures) * video.REPEATS
    assert float(stream.average_rate) == pytest.approx(video.REPEATS / PERIOD)
    assert np.abs(decoded[0].astype(float) - pictures[0]).mean() < 6


def hide_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg without any encoder of H.264, though it can write MPEG-4 and others."""
    monkeypatch.setattr(video, "CODECS", {"h264_of_another_system": {}})


def hide_working(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders that FFmpeg lists but whose hardware is not there."""
    monkeypatch.setattr(video, "CODECS", {"h264_v4l2m2m": {}, "h264_nvenc": {}, "h264_qsv": {}})


def hide_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """No PyAV."""
    monkeypatch.setitem(sys.modules, "av", None)


@pytest.fixture()
def fresh_search() -> Iterator[None]:
    """The encoder is looked for anew, before and after."""
    video.h264_encoder.cache_clear()
    yield
    video.h264_encoder.cache_clear()


@pytest.mark.parametrize("hide", [hide_listed, hide_working, hide_library])
def test_without_an_encoder_it_is_a_gif(
    hide: Callable[[pytest.MonkeyPatch], None],
    rollouts: list[Rollout],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh_search: None,
) -> None:
    (tmp_path / "film.mp4").write_text("of an earlier run")
    hide(monkeypatch)
    assert video.h264_encoder() is None
    pictures = video.film(rollouts[0], 16, 96, SPACE.scale, PERIOD, "title")
    path = video.encode(tmp_path / "film", pictures, PERIOD)
    assert path.suffix == ".gif" and [p.name for p in tmp_path.iterdir()] == ["film.gif"]
    with Image.open(path) as film:
        assert film.n_frames == len(pictures) and film.info["duration"] == pytest.approx(
            1000 * PERIOD, abs=10
        )
        film.seek(len(pictures) - 1)
        shown = np.asarray(film.convert("RGB")).astype(int)
    assert np.abs(shown - pictures[-1]).mean() < 3
    path_colour = (np.abs(pictures[-1].astype(int) - drawing.PATH).sum(axis=-1)) < 10
    assert (
        path_colour.sum() > 20 and np.abs(shown[path_colour] - drawing.PATH).max() < 40
    )  # 128 colours lost it


def test_every_encoder_that_is_there_writes_what_players_take(
    rollouts: list[Rollout], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_search: None
) -> None:
    pictures = video.film(rollouts[0], 16, 96, SPACE.scale, PERIOD, "title")[:3]
    for codec in video.CODECS:
        if codec in av.codecs_available:
            video.h264_encoder.cache_clear()
            monkeypatch.setattr(video, "CODECS", {codec: video.CODECS[codec]})
            if video.h264_encoder() == codec:
                with av.open(str(video.encode(tmp_path / codec, pictures, PERIOD))) as film:
                    assert sum(1 for _ in film.decode(video=0)) == 3 * video.REPEATS
            monkeypatch.undo()


def test_the_map_shows_robot_and_objects_where_they_are(rollouts: list[Rollout]) -> None:
    task, poses = rollouts[0].task, rollouts[0].poses
    height = 300
    picture = np.asarray(drawing.draw_map(task, poses[:1], height)).astype(float)
    scale = height / drawing.ROOM_LENGTH
    for thing in task.scene.things:
        row, column = (
            round((drawing.ROOM_LENGTH - thing.x) * scale),
            round((drawing.ROOM_WIDTH - thing.y) * scale),
        )
        np.testing.assert_allclose(picture[row, column], np.array(thing.rgb) * 255, atol=12)
    before, after = (np.asarray(drawing.draw_map(task, path, height)) for path in (poses[:1], poses))
    assert (before != after).any()


def test_the_arrow_points_where_the_command_goes() -> None:
    def orange(action: list[float]) -> np.ndarray:
        image = Image.new("RGB", (200, 120))
        drawing.draw_command(image, np.array(action), SPACE.scale)
        return np.argwhere((np.asarray(image) == drawing.ARROW).all(axis=-1))

    still = orange([0, 0, 0])
    assert orange([1.0, 0, 0])[:, 0].min() < still[:, 0].min() - 20  # forward is up
    assert orange([0, 1.0, 0])[:, 1].min() < still[:, 1].min() - 20  # left is left
    assert orange([0, -1.0, 0])[:, 1].max() > still[:, 1].max() + 20


def test_long_and_korean_instructions_fit() -> None:
    task = Suite("full2", "phrasing", 1).tasks(language="ko")[0]
    frame, path = np.zeros((16, 16, 3), np.uint8), np.array([[1.0, 4.0, 0.0]])
    for text in (task.instruction, "go " * 200):
        shown = drawing.scene_frame(task.with_instruction(text), frame, path, None, SPACE.scale, 96, "t", "f")
        assert shown.shape[0] % 2 == shown.shape[1] % 2 == 0 and shown.dtype == np.uint8


def test_the_contact_sheet_holds_as_many_episodes_as_there_are(
    rollouts: list[Rollout], tmp_path: Path
) -> None:
    sizes = []
    for count in (1, 9):
        path = video.write_contact_sheet(tmp_path / f"{count}.png", rollouts, 16, count, SPACE.scale)
        with Image.open(path) as sheet:
            sizes.append(sheet.size)
    assert sizes[1][1] - 26 == 2 * (sizes[0][1] - 26)  # six episodes: two rows of three
