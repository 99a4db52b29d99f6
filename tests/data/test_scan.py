"""A folder of episodes: what is found, and a sentence for everything that does not fit."""

import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.check.files import open_all
from src.data.episode import write_episode
from src.data.layouts import LabOptions
from src.data.lerobot.source import open_all as open_source
from src.data.scan import find_episodes, scan
from tests.data.builders import SPACE, make_episode, make_folder, write_lab_file


def test_finds_everything_below_the_root_in_a_fixed_order(tmp_path: Path) -> None:
    for path in ("b/e2.h5", "a/e3.hdf5", "e1.h5", ".cache/e9.h5", "a/.e8.h5"):
        write_episode(tmp_path / path, make_episode(Path(path).stem.strip(".")))
    (tmp_path / "notes.txt").write_text("no episode")
    assert [episode.id for episode in scan(tmp_path, SPACE)] == ["e1", "e2", "e3"]


def test_what_was_never_written_is_not_read_as_zeros(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    path = write_lab_file(tmp_path / "episode_1box_hori_left_core_far.h5", frames)
    with h5py.File(path, "r+") as file:
        del file["images"]
        images = file.create_dataset("images", (6, 8, 8, 3), "u1", chunks=(1, 8, 8, 3), compression="gzip")
        images[:4] = frames[:4]
    with pytest.raises(ProjectError, match=r"images \(4 of 6 chunks\)"):
        scan(tmp_path, SPACE, LabOptions())


def test_names_in_capitals_and_linked_folders_are_read_and_nothing_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, away = tmp_path / "root", tmp_path / "away"
    for path in (
        "root/z/e1.H5",
        "root/e2.hdf5",
        "root/e3.HDF5",
        "away/e4.h5",
        "away/deep/e5.Hdf5",
        "away/.e6.h5",
    ):
        write_episode(tmp_path / path, make_episode(Path(path).stem.strip(".")))
    (away / "deep/loop").symlink_to(root)
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in find_episodes(root)] == ["e2.hdf5", "e3.HDF5", "e1.H5"]
    assert not caplog.text
    (root / "a_link").symlink_to(away)  # sorted before z, but what lies in its own place comes first
    (root / "a_second").symlink_to(away / "deep")
    (root / "again.h5").symlink_to(root / "z/e1.H5")
    (root / "self").symlink_to(root)
    (root / "round").symlink_to(root / "round")
    with caplog.at_level(logging.WARNING):
        found = find_episodes(root)
    assert [str(path.relative_to(root)) for path in found] == [
        "a_link/deep/e5.Hdf5", "a_link/e4.h5", "e2.hdf5", "e3.HDF5", "z/e1.H5",
    ]  # fmt: skip
    assert (
        "4 files or folders" in caplog.text and "reached twice through links and counted once" in caplog.text
    )
    assert [episode.id for episode in scan(root, SPACE)] == ["e1", "e2", "e3", "e4", "e5"]
    assert find_episodes(root) == found  # whatever is asked first
    link = tmp_path / "link"
    link.symlink_to(root)
    assert len(find_episodes(link)) == 5


@settings(max_examples=25)
@given(data=st.data())
def test_any_net_of_links_ends_and_finds_every_real_file_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Against a slow reference: follow every link from every folder reached, and collect real paths in a set."""
    root = tmp_path_factory.mktemp("net")
    folders = [root, *(root / name for name in ("a", "b", "b/c")), root.with_name(f"{root.name}-away")]
    for number, folder in enumerate(folders):
        folder.mkdir(exist_ok=True)
        (folder / f"e{number}.h5").touch()
    ends = st.sampled_from(range(len(folders)))
    for number, (begin, end) in enumerate(data.draw(st.lists(st.tuples(ends, ends), max_size=6))):
        (folders[begin] / f"link{number}").symlink_to(folders[end])
    real, waiting = set(), [root]
    while waiting:
        folder = waiting.pop().resolve()
        if folder not in real:
            real.add(folder)
            waiting += [entry for entry in folder.iterdir() if entry.is_dir()]
    found = find_episodes(root)
    assert sorted(path.resolve() for path in found) == sorted(f for d in real for f in d.glob("*.h5"))
    assert all(path in found for path in root.rglob("*.h5") if path.resolve() == path)


def test_a_folder_that_may_not_be_listed_is_an_error() -> None:
    """Really without permission: where the tests run as root, another user is taken for the moment."""
    root = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        write_episode(root / "e1.h5", make_episode("e1"))
        write_episode(root / "closed/e2.h5", make_episode("e2"))
        root.chmod(0o755)
        (root / "closed").chmod(0)
        was_root = os.geteuid() == 0
        try:
            if was_root:
                os.seteuid(65534)
            with pytest.raises(
                ProjectError, match=r"closed in data\.root=.* cannot be listed \(Permission denied\)"
            ):
                find_episodes(root)
        finally:
            if was_root:
                os.seteuid(0)
    finally:
        (root / "closed").chmod(0o755)
        shutil.rmtree(root)


def test_files_of_other_names_that_begin_as_hdf5_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "e.h5.bak").write_bytes(b"\x89HDF\r\n\x1a\n....")
    os.mkfifo(tmp_path / "pipe")  # nobody writes into it: to open it would wait for ever
    with pytest.raises(
        ProjectError, match=r"holds no episode .*1 files of other names begin as HDF5, e\.g\. .*bak"
    ):
        find_episodes(tmp_path)
    write_episode(tmp_path / "e1.h5", make_episode("e1"))
    shutil.copy(tmp_path / "e1.h5", tmp_path / "e1.nc")
    (tmp_path / "notes").write_text("no episode")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [path.name for path in find_episodes(tmp_path)] == ["e1.h5"]
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.startswith("2 files or folders in") and "begin as HDF5 and are not read" in said


def test_all_who_read_a_folder_get_the_same_list(tmp_path: Path) -> None:
    """Training, the dataset check and conversion look through one function."""
    (tmp_path / "away").mkdir()
    for name in ("in/e1.H5", "in/.e2.h5", "in/e3.hdf5", "away/e4.HDF5"):
        write_episode(tmp_path / name, make_episode(Path(name).stem.strip(".")))
    (tmp_path / "in/more").symlink_to(tmp_path / "away")
    wanted = ["e1", "e3", "e4"]
    assert [e.id for e in scan(tmp_path / "in", SPACE)] == wanted
    assert sorted(e.id for e in open_all(tmp_path / "in", SPACE, None)[0]) == wanted
    assert [e.id for e in open_source(tmp_path / "in", None, None, None)] == wanted


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
    assert "data.on_bad_files=skip" in str(caught.value)
    assert f"`python -m src.check_data data=mobile_vla data.root={tmp_path}`" in str(caught.value)
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
