"""Frames read colour by colour are those that h5py gives, whatever the chunks; each chunk is inflated once."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.planes import read_frames
from tests.data.builders import write_lab_file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> h5py.File:
    return h5py.File(tmp_path_factory.mktemp("planes") / "a.h5", "w")


@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    cut=st.tuples(*[st.integers(1, 9)] * 3, st.sampled_from([None, 1, 2, 3])),
    ends=st.tuples(st.integers(0, 6), st.integers(1, 7)),
    packed=st.sampled_from([None, "gzip", "lzf"]),
)
def test_equal_to_a_slice_for_all_shapes_and_chunks(
    file: h5py.File,
    shape: tuple[int, int, int, int],
    cut: tuple[int, int, int, int | None],
    ends: tuple[int, int],
    packed: str | None,
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    chunks = None if cut[3] is None else tuple(min(c, side) for c, side in zip(cut, shape, strict=True) if c)
    if "x" in file:
        del file["x"]
    stored = file.create_dataset("x", data=frames, chunks=chunks, compression=packed)
    start = min(ends[0], shape[0] - 1)
    stop = min(max(start + 1, ends[1]), shape[0])
    read = read_frames(stored, start, stop)
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    np.testing.assert_array_equal(read, frames[start:stop])


def test_the_recorder_s_chunks_hold_one_colour_and_damage_is_still_noticed(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 360, 640, 3), dtype=np.uint8)
    path = write_lab_file(tmp_path / "a_1box_hori_left.h5", frames)
    with h5py.File(path) as stored:
        images = stored["images"]
        assert images.chunks[-1] == 1  # otherwise this file tests nothing
        place = images.id.get_chunk_info(images.id.get_num_chunks() - 1).byte_offset
        np.testing.assert_array_equal(read_frames(images, 4, 6), frames[4:])
    content = bytearray(path.read_bytes())
    content[place + 200] ^= 255
    path.write_bytes(content)
    with h5py.File(path) as stored, pytest.raises(OSError, match="inflate|filter"):
        read_frames(stored["images"], 5, 6)
