"""A folder of episodes: what is found, and a sentence for everything that does not fit."""

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import write_episode
from src.data.layouts import LabOptions
from src.data.scan import scan
from tests.data.builders import SPACE, make_episode, make_folder, write_lab_file


def test_finds_everything_below_the_root_in_a_fixed_order(tmp_path: Path) -> None:
    for path in ("b/e2.h5", "a/e3.hdf5", "e1.h5", ".cache/e9.h5", "a/.e8.h5"):
        write_episode(tmp_path / path, make_episode(Path(path).stem.strip(".")))
    (tmp_path / "notes.txt").write_text("no episode")
    assert [episode.id for episode in scan(tmp_path, SPACE)] == ["e1", "e2", "e3"]


def test_missing_or_empty_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"data\.root=.*nowhere does not exist"):
        scan(tmp_path / "nowhere", SPACE)
    with pytest.raises(ProjectError, match="holds no episode .*set data.root"):
        scan(tmp_path, SPACE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="is a file"):
        scan(tmp_path / "file", SPACE)


def test_all_bad_files_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path, [3, 3, 3])
    (tmp_path / "e001.h5").write_bytes(b"broken")
    with pytest.raises(ProjectError) as caught:
        scan(tmp_path, SPACE)
    assert str(caught.value).startswith(str(tmp_path / "e001.h5"))
    (tmp_path / "e002.h5").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ProjectError, match=r"2 of 3 files in .* cannot be used, the first: .*e001\.h5"):
        scan(tmp_path, SPACE)


def test_double_ids_name_both_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_episode(tmp_path / f"{name}.h5", make_episode("same"))
    with pytest.raises(ProjectError, match=r"one\.h5 and .*two\.h5 are both episode 'same'"):
        scan(tmp_path, SPACE)


def test_mixed_sizes_name_both_files_unless_allowed(tmp_path: Path) -> None:
    make_folder(tmp_path, [3, 3])
    odd = make_episode("odd", 3, frames=np.zeros((3, 6, 8, 3), np.uint8))
    write_episode(tmp_path / "odd.h5", odd)
    with pytest.raises(
        ProjectError, match=r"odd\.h5 has frames of 6x8 px, but .*e000\.h5 and 1 others have 8x8"
    ):
        scan(tmp_path, SPACE)
    assert len(scan(tmp_path, SPACE, allow_mixed_sizes=True)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("linear_x", "angular_z", "linear_y")}, "its 3 action axes are"),
        ({"units": ("m/s", "m/s", "deg/s")}, "its 3 action units are"),
        ({"control_period": 0.5}, "control period is 0.4 s, data.action.control_period is 0.5 s"),
        (
            {"names": ("x", "w"), "units": ("m/s", "rad/s"), "low": (-1, -1), "high": (1, 1), "classes": {}},
            r"its 3 action axes are .* data.action has \['x', 'w'\]",
        ),
    ],
)
def test_the_action_space_has_to_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    make_folder(tmp_path, [3])
    with pytest.raises(ProjectError, match=message) as caught:
        scan(tmp_path, ActionSpace(**{**SPACE.to_dict(), **changes}))
    assert "e000.h5" in str(caught.value)


def test_what_came_from_file_names_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    write_lab_file(tmp_path / "episode_1box_hori_left_core_far.h5", frames)
    with caplog.at_level(logging.INFO):
        scan(tmp_path, SPACE, LabOptions())
    assert "taken from the file name" in caplog.text
    assert "scenario (1)" in caplog.text


def test_what_readers_remark_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(3):
        path = write_lab_file(tmp_path / f"{i}_1box_hori_left.h5", np.zeros((2, 8, 8, 3), np.uint8))
    with h5py.File(path, "a") as file:
        file.attrs["num_frames"] = 18
    with caplog.at_level(logging.INFO):
        scan(tmp_path, SPACE, LabOptions())
    said = [record.getMessage() for record in caplog.records if "taken from" not in record.getMessage()]
    assert sorted(said, reverse=True) == [
        "3 files: no action is a stop, so stopping cannot be learned from the file",
        "1 file: the attribute num_frames is not the number of stored frames",
    ]
