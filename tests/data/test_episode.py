"""The project's own format: exact round trip, equal bytes, lazy reading, and a sentence for every broken file."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.episode import Episode, EpisodeFile, open_episode, write_episode
from tests.data.builders import make_episode


def assert_same(one: Episode, two: Episode) -> None:
    for name in Episode.__dataclass_fields__:
        a, b = getattr(one, name), getattr(two, name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b, err_msg=name)
            assert a.dtype == b.dtype, name
        else:
            assert a == b, name


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    length=st.integers(1, 5), size=st.integers(1, 9), axes=st.integers(1, 4),
    texts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=3),
    known=st.booleans(),
    attributes=st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers(), st.booleans())),
)  # fmt: skip
def test_round_trip(
    tmp_path: Path,
    length: int,
    size: int,
    axes: int,
    texts: list[str],
    known: bool,
    attributes: dict[str, Any],
) -> None:
    rng = np.random.default_rng(length)
    episode = make_episode(
        length=length, size=size, instructions=tuple(texts), attributes=attributes,
        actions=rng.normal(size=(length, axes)).astype(np.float32),
        action_names=tuple("abcd"[:axes]), action_units=("m/s",) * axes,
        timestamps=np.arange(length) * 0.4 if known else None,
        poses=rng.normal(size=(length, 3)) if known else None,
    )  # fmt: skip
    write_episode(tmp_path / "e.h5", episode)
    assert_same(open_episode(tmp_path / "e.h5").load(), episode)


def test_equal_episodes_give_equal_bytes_in_any_process(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.data.episode import write_episode\n"
        "from tests.data.builders import make_episode\nwrite_episode(Path(sys.argv[1]), make_episode())\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other.h5")], check=True)
    write_episode(tmp_path / "one.h5", make_episode())
    os.utime(tmp_path / "one.h5", (0, 0))
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()
    write_episode(tmp_path / "two.h5", make_episode(scenario="right"))
    assert (tmp_path / "one.h5").read_bytes() != (tmp_path / "two.h5").read_bytes()


def test_file_can_be_read_with_h5py_alone(tmp_path: Path) -> None:
    """The format is for others too: raw frames, one per chunk, and a header in plain JSON."""
    episode = make_episode()
    write_episode(tmp_path / "e.h5", episode)
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["format"] == "mobile-vla/2"
        assert '"colour_order": "rgb"' in file.attrs["header"]
        assert file["frames"].chunks == (1, 8, 8, 3)
        assert file["frames"].compression is None
        np.testing.assert_array_equal(file["frames"][2], episode.frames[2])


def test_frames_are_read_lazily_and_in_slices(tmp_path: Path) -> None:
    episode = make_episode(length=6)
    write_episode(tmp_path / "e.h5", episode)
    file = open_episode(tmp_path / "e.h5")
    assert file.length == 6
    assert file.frame_shape == (8, 8, 3)
    np.testing.assert_array_equal(file.frames(2, 5), episode.frames[2:5])
    np.testing.assert_array_equal(file.frames(), episode.frames)
    for start, stop in ((0, 7), (3, 3), (-1, 2)):
        with pytest.raises(ProjectError, match="it has 0:6"):
            file.frames(start, stop)


def _checksum(file: EpisodeFile) -> int:
    return int(file.frames().sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_travels_to_other_processes(tmp_path: Path, method: str) -> None:
    write_episode(tmp_path / "e.h5", make_episode())
    file = open_episode(tmp_path / "e.h5")
    expected = _checksum(file)
    if (
        method == "fork"
    ):  # in the child only h5py is used; the threads of torch, which make fork risky, are not
        child = subprocess.run(
            [sys.executable, "-c", FORK, str(tmp_path / "e.h5")], capture_output=True, text=True, check=True
        )
        assert child.stdout.split() == [str(expected)] * 2
        return
    assert pickle.loads(pickle.dumps(file)).id == "e0"
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_checksum, [file]) == [expected]


FORK = """
import os, sys
from pathlib import Path
from src.data.episode import open_episode
file = open_episode(Path(sys.argv[1]))
print(file.frames().sum(), flush=True)
child = os.fork()
if child == 0:
    print(file.frames().sum(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_no_file_handle_stays_open(tmp_path: Path) -> None:
    write_episode(tmp_path / "e.h5", make_episode())
    file = open_episode(tmp_path / "e.h5")
    file.frames()
    held = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{fd}")
    ]
    assert not [name for name in held if name.endswith("e.h5")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((6, 8, 8), np.uint8)}, r"frames are uint8 \(6, 8, 8\)"),
        ({"frames": np.zeros((6, 8, 8, 3), np.float32)}, "frames are float32"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "T > 0"),
        ({"actions": np.zeros((5, 3), np.float32)}, r"actions have shape \(5, 3\), expected \(6, 3\)"),
        ({"actions": np.zeros((6, 2), np.float32)}, "2 action axes, but names"),
        ({"actions": np.zeros((6, 3), np.int64)}, "expected float"),
        ({"actions": np.where(np.arange(18).reshape(6, 3) == 10, np.nan, 0.0)}, "first at step 3"),
        ({"poses": np.zeros((6, 2))}, "poses have shape"),
        ({"poses": np.full((6, 3), np.inf)}, "poses hold NaN or infinity"),
        ({"timestamps": np.zeros(5)}, "timestamps have shape"),
        ({"instructions": ()}, "instructions are"),
        ({"instructions": ("  ",)}, "instructions are"),
        ({"id": ""}, "id is empty"),
        ({"group": ""}, "group is empty"),
        ({"control_period": 0.0}, "control_period is 0.0"),
        ({"attributes": {"a": [1]}}, "attribute 'a' is list"),
    ],
)
def test_a_wrong_episode_is_not_written(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message) as caught:
        write_episode(tmp_path / "e.h5", make_episode(**changes))
    assert "e0" in str(caught.value) or "id" in changes
    assert list(tmp_path.iterdir()) == []


def _chunk_position(path: Path) -> int:
    with h5py.File(path) as file:
        return int(file["frames"].id.get_chunk_info(0).byte_offset)


def test_every_broken_file_is_one_sentence_that_names_it(tmp_path: Path) -> None:
    good = tmp_path / "good.h5"
    write_episode(good, make_episode(size=32))
    data = good.read_bytes()
    cases = {
        "missing.h5": (None, "does not exist"),
        "empty.h5": (b"", "truncated, damaged or no HDF5 file"),
        "text.h5": (b"hello" * 50, "truncated, damaged or no HDF5 file"),
        "cut.h5": (data[: len(data) // 2], "truncated"),
        "head.h5": (data[:100], "truncated"),
        "zeros.h5": (bytes(len(data)), "damaged"),
        "lfs.h5": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 49000000\n",
            "Git-LFS pointer.*git lfs pull",
        ),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ProjectError, match=message) as caught:
            open_episode(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ProjectError, match="is a folder"):
        open_episode(tmp_path)


def test_a_flipped_bit_in_a_frame_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode(size=32))
    data = bytearray(path.read_bytes())
    data[_chunk_position(path) + 500] ^= 1
    path.write_bytes(bytes(data))
    file = open_episode(path)  # the metadata is fine
    with pytest.raises(ProjectError, match=r"e\.h5 is truncated, damaged"):
        file.frames()


@pytest.mark.parametrize("key", ["actions", "poses"])
def test_a_flipped_bit_in_a_small_array_is_noticed(tmp_path: Path, key: str) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode(poses=np.ones((6, 3))))
    with h5py.File(path) as file:
        offset = file[key].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ProjectError, match=r"e\.h5 is truncated, damaged"):
        open_episode(path)


def test_unknown_layouts_list_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "arm.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations/wrist_camera", data=np.zeros((2, 4)))
        file.create_dataset("gripper", data=np.zeros(2))
    with pytest.raises(
        ProjectError, match=r"observations/wrist_camera \(2, 4\).*expected one of mobile-vla/2, lab V1"
    ):
        open_episode(path)
    with h5py.File(tmp_path / "none.h5", "w"):
        pass
    with pytest.raises(ProjectError, match="no datasets"):
        open_episode(tmp_path / "none.h5")
    with h5py.File(tmp_path / "later.h5", "w") as file:
        file.attrs["format"] = "mobile-vla/3"
    with pytest.raises(ProjectError, match="no known layout"):
        open_episode(tmp_path / "later.h5")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("actions", None, "no dataset 'actions'"),
        ("frames", None, "no dataset 'frames'"),
        ("actions", np.zeros((4, 3), np.float32), r"actions have shape \(4, 3\)"),
        ("actions", np.full((6, 3), np.nan, np.float32), "actions hold NaN"),
        ("poses", np.zeros((6, 7)), "poses have shape"),
        ("frames", np.zeros((6, 8, 8, 4), np.uint8), "expected uint8"),
        ("actions", np.zeros((6, 3), np.int64), "actions are int64"),
        ("timestamps", np.zeros(6, np.int64), "timestamps are int64"),
        ("frames", np.zeros((0, 8, 8, 3), np.uint8), "T above 0"),
        ("frames", np.zeros((6, 8, 8, 3), np.uint16), "uint16"),
        ("header", "{", "header of format"),
        ("header", "{}", "header of format"),
        ("header", None, "header of format"),
    ],
)
def test_files_edited_by_hand_are_checked_on_opening(
    tmp_path: Path, key: str, value: Any, message: str
) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode())
    with h5py.File(path, "a") as file:
        if key == "header":
            del file.attrs["header"]
            if value is not None:
                file.attrs["header"] = value
        else:
            if key in file:
                del file[key]
            if value is not None:
                file[key] = value
    with pytest.raises(ProjectError, match=message) as caught:
        open_episode(path)
    assert str(path) in str(caught.value)
