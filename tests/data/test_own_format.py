"""The two ways of storing frames in the project's own format: what is lost, what is noticed, what a kill leaves."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from src.core.errors import ProjectError
from src.data.episode import open_episode, write_episode
from tests.data.builders import make_episode


def smooth(steps: int = 4, height: int = 48, width: int = 64) -> np.ndarray:
    """Pictures with edges and saturated small patches, as a camera sees: (T, H, W, 3) uint8."""
    y, x = np.mgrid[0:height, 0:width]
    frames = np.stack([np.stack([y * 3 % 256, x * 2 % 256, (x + y + t) % 256], -1) for t in range(steps)])
    frames = frames.astype(np.uint8)
    for step in range(steps):
        frames[step, 10:17, 10 + step : 17 + step] = (230, 20, 30)
    return frames


def pil(data: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data.tobytes())))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.integers(1, 4), height=st.integers(1, 33), width=st.integers(1, 33), quality=st.integers(1, 100),
    start=st.integers(0, 3),
)  # fmt: skip
def test_jpeg_frames_are_what_pil_decodes(
    tmp_path: Path, steps: int, height: int, width: int, quality: int, start: int
) -> None:
    frames = np.random.default_rng(steps).integers(0, 256, (steps, height, width, 3), dtype=np.uint8)
    write_episode(tmp_path / "e.h5", make_episode(length=steps, frames=frames), "jpeg", quality)
    file = open_episode(tmp_path / "e.h5")
    with h5py.File(tmp_path / "e.h5") as raw:
        expected = np.stack([pil(raw["frames_jpeg"][step]) for step in range(steps)])
    assert (file.length, file.frame_shape) == (steps, (height, width, 3))
    np.testing.assert_array_equal(file.frames(), expected)
    start = min(start, steps - 1)
    np.testing.assert_array_equal(file.frames(start), expected[start:])


def test_only_the_frames_change_with_jpeg(tmp_path: Path) -> None:
    episode = make_episode(length=4, frames=smooth(), poses=np.ones((4, 3)), timestamps=np.arange(4.0))
    write_episode(tmp_path / "raw.h5", episode)
    write_episode(tmp_path / "jpeg.h5", episode, frames="jpeg")
    raw, packed = (open_episode(tmp_path / f"{name}.h5").load() for name in ("raw", "jpeg"))
    for name in ("id", "instructions", "action_names", "action_units", "control_period", "scenario", "group"):
        assert getattr(raw, name) == getattr(packed, name)
    for name in ("actions", "poses", "timestamps"):
        np.testing.assert_array_equal(getattr(raw, name), getattr(packed, name))
    np.testing.assert_array_equal(raw.frames, episode.frames)
    assert np.abs(packed.frames.astype(int) - episode.frames).mean() < 2.5


def test_small_coloured_things_keep_their_colour(tmp_path: Path) -> None:
    """Chroma is not subsampled: with 4:2:0 the rim of a red patch of 7 px is off several times as much."""
    frames = smooth(1)
    write_episode(tmp_path / "e.h5", make_episode(length=1, frames=frames), frames="jpeg")
    with (
        h5py.File(tmp_path / "e.h5") as file,
        Image.open(io.BytesIO(file["frames_jpeg"][0].tobytes())) as image,
    ):
        layers = image.layer  # type: ignore[attr-defined]  # JPEG files alone have it
        assert [layer[1:3] for layer in layers] == [(1, 1)] * 3
    stream = io.BytesIO()
    Image.fromarray(frames[0]).save(stream, "JPEG", quality=95, subsampling="4:2:0")
    patch = (slice(8, 19), slice(8, 19))
    errors = [
        np.abs(found.astype(int) - frames[0])[patch].mean()
        for found in (open_episode(tmp_path / "e.h5").frames()[0], np.asarray(Image.open(stream)))
    ]
    assert 3 * errors[0] < errors[1]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_equal_episodes_give_equal_bytes(tmp_path: Path, encoding: str) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom src.data.episode import write_episode\n"
        "from tests.data.builders import make_episode\n"
        "write_episode(Path(sys.argv[1]), make_episode(length=9, size=24), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other.h5"), encoding], check=True, timeout=60)
    write_episode(tmp_path / "one.h5", make_episode(length=9, size=24), encoding)
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "other.h5").read_bytes()


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_the_file_explains_itself(tmp_path: Path, encoding: str) -> None:
    write_episode(tmp_path / "e.h5", make_episode(length=4, frames=smooth()), encoding, quality=80)
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["format"] == "mobile-vla/2"
        header = json.loads(file.attrs["header"])
        assert ("frames" in file) == (encoding == "raw")
    assert header["action_names"] == ["linear_x", "linear_y", "angular_z"]
    assert header["action_units"] == ["m/s", "m/s", "rad/s"]
    assert (header["colour_order"], header["frame_encoding"]) == ("rgb", encoding)
    assert header["control_period_s"] == 0.4
    assert header["frame_shape"] == [48, 64, 3]
    assert header.get("jpeg_quality") == (80 if encoding == "jpeg" else None)
    assert "counter-clockwise" in header["conventions"]["actions"]


def test_raw_frames_of_full_size_have_a_chunk_each(tmp_path: Path) -> None:
    """The chunks h5py chooses by itself cut each frame into many pieces and read four times slower."""
    frames = np.zeros((2, 720, 1280, 3), np.uint8)
    write_episode(tmp_path / "e.h5", make_episode(length=2, frames=frames))
    with h5py.File(tmp_path / "e.h5") as file:
        assert file["frames"].chunks == (1, 720, 1280, 3)
        assert file["frames"].id.get_num_chunks() == 2


def test_version_1_is_still_read(tmp_path: Path) -> None:
    path, episode = tmp_path / "e.h5", make_episode()
    write_episode(path, episode)
    with h5py.File(path, "a") as file:
        header = json.loads(file.attrs["header"])
        for key in ("frame_encoding", "frame_shape", "conventions"):
            del header[key]
        file.attrs["format"], file.attrs["header"] = "mobile-vla/1", json.dumps(header)
    np.testing.assert_array_equal(open_episode(path).load().frames, episode.frames)
    with h5py.File(path, "a") as file:
        file.attrs["format"] = "mobile-vla/2"
    with pytest.raises(ProjectError, match="missing or broken .'frame_encoding'"):
        open_episode(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": "png"}, "frames is 'png'; expected one of"),
        ({"frames": "jpeg", "quality": 0}, "quality is 0"),
        ({"frames": "jpeg", "quality": 101}, "quality is 101"),
        ({"frames": "jpeg", "quality": 90.5}, r"quality is 90\.5"),
    ],
)
def test_wrong_arguments_write_nothing(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        write_episode(tmp_path / "e.h5", make_episode(), **arguments)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- damage


def swap(path: Path, step: int, data: bytes, trusted: bool) -> None:
    """Put other bytes in the place of one JPEG; `trusted` also writes their checksum."""
    from src.data.jpeg import checksum

    with h5py.File(path, "a") as file:
        array = np.frombuffer(data, np.uint8)
        file["frames_jpeg"][step] = array
        if trusted:
            file["frames_crc32"][step] = checksum(array)


def jpeg_bytes(frame: np.ndarray, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame).convert(mode).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "trusted", "message"),
    [
        (jpeg_bytes(smooth(1)[0]), False, "frame 2 is a damaged JPEG"),
        (b"", False, "frame 2 is a damaged JPEG"),
        (b"", True, "frame 2 is no readable JPEG"),
        (b"hello", True, "frame 2 is no readable JPEG"),
        (jpeg_bytes(smooth(1)[0])[:300], True, "frame 2 is no readable JPEG"),
        (jpeg_bytes(smooth(1)[0][:9]), True, r"frame 2 is a JPEG of mode RGB and shape \(9, 64, 3\)"),
        (jpeg_bytes(smooth(1)[0], "L"), True, "frame 2 is a JPEG of mode L"),
        (jpeg_bytes(smooth(1)[0], "CMYK"), True, "frame 2 is a JPEG of mode CMYK"),
    ],
)
def test_a_damaged_jpeg_is_named_by_file_and_frame(
    tmp_path: Path, data: bytes, trusted: bool, message: str
) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode(length=4, frames=smooth()), frames="jpeg")
    swap(path, 2, data, trusted)
    file = open_episode(path)
    file.frames(0, 2)
    file.frames(3, 4)
    with pytest.raises(ProjectError, match=message) as caught:
        file.frames(1, 4)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_anywhere_in_a_jpeg_is_noticed(tmp_path: Path) -> None:
    """HDF5 does not guard values of variable length, and Pillow decodes many a broken file without a word."""
    path = tmp_path / "e.h5"
    write_episode(path, make_episode(length=4, frames=smooth()), frames="jpeg")
    whole = path.read_bytes()
    with h5py.File(path) as file:
        start = whole.index(file["frames_jpeg"][1].tobytes())
        size = len(file["frames_jpeg"][1])
    for place in np.linspace(0, size - 1, 40).astype(int):
        data = bytearray(whole)
        data[start + place] ^= 4
        path.write_bytes(bytes(data))
        with pytest.raises(ProjectError, match=r"e\.h5: frame 1 is a damaged JPEG"):
            open_episode(path).frames()


# ---------------------------------------------------------------- kill -9

WRITER = """
import sys
from pathlib import Path
import numpy as np
from src.data.episode import write_episode
from tests.data.builders import make_episode
path, encoding = Path(sys.argv[1]), sys.argv[2]
episodes = [make_episode(length=40, size=128, frames=np.full((40, 128, 128, 3), shade, np.uint8)) for shade in (0, 255)]
print("ready", flush=True)
while True:
    for episode in episodes:
        write_episode(path, episode, encoding)
"""


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_a_kill_at_any_instant_leaves_a_whole_episode(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "e.h5"
    write_episode(path, make_episode(length=40, frames=np.zeros((40, 128, 128, 3), np.uint8)), encoding)
    caught_writing = 0
    for _ in range(20):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), encoding], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child.stdout:
            assert child.stdout.readline() == "ready\n"
            deadline = time.monotonic() + 30
            while len(list(tmp_path.iterdir())) == 1 and time.monotonic() < deadline:
                time.sleep(0.0002)
            os.kill(child.pid, signal.SIGKILL)
            child.wait(timeout=30)
        frames = open_episode(path).load().frames
        assert frames.shape == (40, 128, 128, 3)
        assert len(np.unique(frames)) == 1  # one of the two episodes, never a mixture
        unfinished = [p for p in tmp_path.iterdir() if p != path]
        assert all(p.name.startswith(".") for p in unfinished)  # hidden, so no scan takes it for an episode
        caught_writing += len(unfinished)
        for leftover in unfinished:
            leftover.unlink()
        if caught_writing == 3:
            break
    assert caught_writing == 3  # the kill came in the middle of the file, not between two
