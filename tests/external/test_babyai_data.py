"""Recorded rooms: the bot's advice to each frame, the same bytes again, resumable, and never a room of the tests."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("minigrid", reason="install it with pip install -e '.[external]'")

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import open_episode
from src.external.babyai_data import MARKER, STARTED, Settings, collect, record
from src.external.levels import VALIDATION_SEEDS, Room


def make(folder: Path, **changed: object) -> dict[str, object]:
    settings = {"levels": "GoToObj+GoToLocal", "episodes": 3, "progress": False, **changed}
    return collect(folder, **settings)  # type: ignore[arg-type]


def test_the_record_replays_to_success(tmp_path: Path, space: ActionSpace) -> None:
    """Without pushes, the recorded commands drive a fresh room to its mission, through the recorded pictures."""
    dataset = make(tmp_path, noise=0.0)
    assert dataset["episodes"] == 6 and dataset["left_out"] == {}
    for path in sorted(tmp_path.glob("*.h5")):
        episode = open_episode(path).load()
        room = Room(str(episode.attributes["babyai_level"]))
        room.reset(int(episode.attributes["seed"]))
        assert episode.instructions == (room.mission,)
        assert episode.attributes["layout"] == room.digest()
        for frame, pose, label in zip(
            episode.frames, episode.poses, space.classify(episode.actions), strict=True
        ):
            np.testing.assert_array_equal(frame, room.frame())
            np.testing.assert_allclose(pose, room.pose)
            assert not room.done
            room.step(space.class_names[int(label)])
        assert room.reward > 0


def test_pushes_make_longer_drives_of_the_same_rooms() -> None:
    room = Room("GoToObj")
    lengths = {}
    for noise in (0.0, 0.4):
        settings = Settings("GoToObj", 8, 0, 56, noise, "x")
        drives = [record(room, seed, settings)[0] for seed in range(8)]
        lengths[noise] = sum(len(drive.actions) for drive in drives if drive is not None)
    assert lengths[0.4] > lengths[0.0]


def test_a_room_that_needs_other_moves_is_left_out_and_counted(tmp_path: Path) -> None:
    """In this room the red ball stands behind another thing, and the bot picks that up."""
    blocked = 55
    dataset = make(tmp_path, levels="GoToRedBallGrey", episodes=2, first_seed=blocked, noise=0.0)
    assert dataset["left_out"] == {"GoToRedBallGrey": {"moves things out of the way": 1}}
    assert list(dataset["files"]) == ["GoToRedBallGrey-0000056.h5"]


def test_equal_settings_give_equal_bytes_and_a_finished_folder_is_kept(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    assert first["hash"] == second["hash"]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.h5")}
    assert make(tmp_path / "a") == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.h5")} == before


def test_an_interrupted_folder_is_finished_and_a_damaged_file_recorded_again(tmp_path: Path) -> None:
    whole = make(tmp_path)
    marker = json.loads((tmp_path / MARKER).read_text())
    (tmp_path / MARKER).unlink()
    (tmp_path / STARTED).write_text(json.dumps(marker["settings"]))
    victims = sorted(tmp_path.glob("*.h5"))
    victims[0].unlink()
    victims[1].write_bytes(b"broken")
    assert make(tmp_path)["hash"] == whole["hash"]
    assert not (tmp_path / STARTED).exists()
    victims[2].write_bytes(b"broken later")
    assert make(tmp_path)["hash"] == whole["hash"]


def test_a_folder_of_other_settings_or_origin_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", episodes=1)
    with pytest.raises(ProjectError, match="noise 0.1 instead of 0.2"):
        make(tmp_path / "a", episodes=1, noise=0.2)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.h5").write_bytes(b"")
    with pytest.raises(ProjectError, match="unknown origin"):
        make(tmp_path / "b")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first_seed": VALIDATION_SEEDS - 2}, "first_seed"),
        ({"first_seed": -1}, "first_seed"),
        ({"episodes": 0}, "episodes"),
        ({"image_size": 64}, "choose 63"),
        ({"noise": 1.0}, "noise"),
        ({"levels": "GoToDoor"}, "GoToDoor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ProjectError, match=message):
        make(tmp_path / "new", **changed)
    assert not (tmp_path / "new").exists()
