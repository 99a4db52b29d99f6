"""The lab's files V1-V4, at their real size: what is read, what options decide, what is refused."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.episode import open_episode
from src.data.layouts import LabOptions
from tests.data.builders import write_lab_file

NAME = "episode_20260129_010422_basket_1box_hori_left_core_medium.h5"


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    image = np.zeros((3, 720, 1280, 3), np.uint8)
    image[..., 0] = 200  # red, if the file is RGB
    image[:, 360:, :, 2] = 90
    image[1, :, 640:, 1] = 50
    return image


def test_reads_a_file_of_the_lab(tmp_path: Path, frames: np.ndarray) -> None:
    actions = np.array([[1.15, 0, 0], [1.15, 1.15, 0], [0, 0, 1.15]], np.float32)
    path = write_lab_file(tmp_path / NAME, frames, actions)
    file = open_episode(path, LabOptions())
    assert file.id == path.stem
    assert file.length == 3
    assert file.frame_shape == (720, 1280, 3)
    assert file.scenario == "1box_hori_left"
    assert file.group == file.id
    assert file.instructions == ()
    assert file.control_period == 0.4
    assert file.attributes["pattern"] == "core"
    assert file.attributes["distance"] == "medium"
    assert file.attributes["total_duration"] == 40.0
    assert {"id", "scenario", "pattern", "distance"} == set(file.meta.from_name)
    np.testing.assert_array_equal(file.actions, actions)
    np.testing.assert_array_equal(file.frames(1, 3), frames[1:3])
    file.load()


def test_bgr_and_rotation_are_declared_options(tmp_path: Path, frames: np.ndarray) -> None:
    actions = np.array([[0, 0, 1.15], [0, 1.15, -1.15], [1, 0, 0]], np.float32)
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8], actions)
    file = open_episode(path, LabOptions(colour_order="bgr", rotation_sign=-1, control_period=0.5))
    np.testing.assert_array_equal(file.frames(), frames[:, :8, :8, ::-1])
    np.testing.assert_array_equal(file.actions, actions * np.array([1, 1, -1], np.float32))
    assert file.control_period == 0.5


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (None, ()),
        (["왼쪽으로 가세요"], ("왼쪽으로 가세요",)),
        (
            ["Pass on the right.\n", "", " Right side, please. "],
            ("Pass on the right.", "Right side, please."),
        ),
        ([" \0"], ()),
        ("One for all.", ("One for all.",)),
    ],
)
def test_sentences_are_those_that_the_file_holds_and_no_others(
    tmp_path: Path, frames: np.ndarray, stored: list[str] | str | None, found: tuple[str, ...]
) -> None:
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8])
    if stored is not None:
        texts = [text.encode() for text in stored] if isinstance(stored, list) else stored.encode()
        with h5py.File(path, "a") as file:
            file["language_instruction"] = np.array(texts, dtype="S256")
    for options in (None, LabOptions()):
        file = open_episode(path, options)
        assert file.instructions == file.load().instructions == found


def test_a_name_without_scenario_is_refused_unless_none_is_wanted(tmp_path: Path, frames: np.ndarray) -> None:
    path = write_lab_file(tmp_path / "run7.h5", frames[:, :8, :8], text="Go.")
    with pytest.raises(ProjectError, match="file name does not hold the scenario.*scenario_from=none"):
        open_episode(path, LabOptions())
    file = open_episode(path, LabOptions(scenario_from="none"))
    assert file.scenario == "unknown"
    assert file.meta.from_name == ("id",)


def test_a_text_cut_within_a_letter_is_refused(tmp_path: Path, frames: np.ndarray) -> None:
    """A field of 256 bytes cuts long Korean sentences anywhere; half a letter is no text."""
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8])
    with h5py.File(path, "a") as file:
        file["language_instruction"] = np.array(["가".encode() * 85 + "가".encode()[:1]], dtype="S256")
    with pytest.raises(ProjectError, match=r"'language_instruction' .*is no UTF-8 text") as caught:
        open_episode(path, LabOptions())
    assert str(path) in str(caught.value)


def test_events_and_attributes_are_kept_and_contradictions_remarked(
    tmp_path: Path, frames: np.ndarray
) -> None:
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8])
    assert open_episode(path, LabOptions()).attributes["action_events"] == "episode_start x1, start_action x2"
    with h5py.File(path, "a") as file:
        file.attrs["num_frames"] = 18
    remarks = open_episode(path, LabOptions()).meta.remarks
    assert "the attribute num_frames is not the number of stored frames" in remarks
    assert "no action is a stop, so stopping cannot be learned from the file" in remarks
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8], np.zeros((3, 3), np.float32))
    assert open_episode(path, LabOptions()).meta.remarks == ()


@pytest.mark.parametrize(
    ("group_by", "expected"),
    [("episode", Path(NAME).stem), ("session", "20260129_1box_hori_left"), ("scenario", "1box_hori_left")],
)
def test_groups(tmp_path: Path, frames: np.ndarray, group_by: str, expected: str) -> None:
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8])
    assert open_episode(path, LabOptions(group_by=group_by)).group == expected


def test_session_needs_a_date(tmp_path: Path, frames: np.ndarray) -> None:
    path = write_lab_file(tmp_path / "1box_hori_left.h5", frames[:, :8, :8])
    with pytest.raises(ProjectError, match="no date"):
        open_episode(path, LabOptions(group_by="session"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((3, 2), np.float32)}, r"'actions' has shape \(3, 2\)"),
        ({"actions": np.zeros((2, 3), np.float32)}, r"actions have shape \(2, 3\), expected \(3, 3\)"),
        ({"actions": np.full((3, 3), np.nan, np.float32)}, "NaN or infinity, first at step 0"),
    ],
)
def test_wrong_content_is_refused(
    tmp_path: Path, frames: np.ndarray, changes: dict[str, Any], message: str
) -> None:
    path = write_lab_file(tmp_path / NAME, frames[:, :8, :8], **changes)
    with pytest.raises(ProjectError, match=message) as caught:
        open_episode(path, LabOptions())
    assert path.name in str(caught.value)


def test_wrong_frames_are_refused(tmp_path: Path, frames: np.ndarray) -> None:
    for name, bad in (("gray", frames[..., 0]), ("float", frames[:, :8, :8].astype(np.float32))):
        path = write_lab_file(tmp_path / f"{name}_{NAME}", bad)
        with pytest.raises(ProjectError, match=r"'images' is .* expected uint8 \(T, H, W, 3\)"):
            open_episode(path, LabOptions())


def test_damage_inside_compressed_frames_is_noticed(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    path = write_lab_file(tmp_path / NAME, noise)
    with h5py.File(path) as file:
        offset = file["images"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(bytes(data))
    with pytest.raises(ProjectError, match="truncated, damaged"):
        open_episode(path, LabOptions()).frames()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("colour_order", "rbg"),
        ("rotation_sign", 0),
        ("lateral_sign", 2),
        ("group_by", "day"),
        ("control_period", 0.0),
        ("scenario_from", "path"),
        ("axis_order", ("linear_x", "yaw")),
        ("axis_order", ()),
        ("axis_order", "linear_x"),
        ("axes", ("linear_x", "linear_x")),
        ("class_names", ("stop", "jump")),
    ],  # fmt: skip
)
def test_options_are_checked(key: str, value: Any) -> None:
    with pytest.raises(ProjectError, match=re.escape(f"data.lab.{key} is {value!r}")):
        LabOptions(**{key: value})
