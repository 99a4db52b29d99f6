"""Owns the project's own file format "mobile-vla/2": how it is written, and how it is read back.

In: the parts of an episode, or an open HDF5 file. Out: the finished file, or `Metadata` and RGB frames.

Datasets: `frames` (T, H, W, 3) uint8 RGB, one frame per chunk, or else `frames_jpeg` (T,) variable-length uint8, one
JPEG file per frame, with `frames_crc32` (T,) uint32; `actions` (T, A) float32; optionally `timestamps` (T,) and
`poses` (T, 3) float64. Attributes: `format`, and `header`, a JSON object with all that is needed to interpret them:
axis names, units, colour order, control period, instructions, labels, and the conventions in words. The arrays carry
checksums.

Raw frames are not compressed: gzip and lzf are 2-4 times slower to read and save little on textured images. A chunk
per frame is as fast as contiguous storage and 4 times faster than the chunks h5py would choose (measured at 720p).
Version 1, which is read as well, is version 2 without JPEG, without checksums of the small arrays and without words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.core.files import atomic_path
from src.data import jpeg
from src.data.layouts import LabOptions, Layout, Metadata, checked_frames, dataset

FORMAT = "mobile-vla/2"
FORMATS = ("mobile-vla/1", FORMAT)
ENCODINGS = ("raw", "jpeg")
CONVENTIONS = {
    "frames": "(T, H, W, 3) uint8, row 0 is the top; frames_jpeg: one JPEG file per frame",
    "actions": "(T, A) in action_units; actions[t] was commanded after seeing frames[t]; ROS REP-103 axes: "
    "linear_x forward, linear_y left, angular_z counter-clockwise seen from above",
    "timestamps": "(T,) seconds since the start",
    "poses": "(T, 3) x m, y m, yaw rad",
}


def write_own(
    path: Path,
    frames: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    facts: Mapping[str, Any],
    encoding: str,
    quality: int,
) -> None:
    """Write one file atomically; equal content gives equal bytes.

    Args:
        path: where to; a file that is there is replaced at once, or not at all.
        frames: (T, H, W, 3) uint8 RGB.
        arrays: actions (T, A) float32, and timestamps and poses where known.
        facts: the entries of the header that come from the episode.
        encoding: "raw" or "jpeg".
        quality: of the JPEG, 1 to 100.
    """
    if encoding not in ENCODINGS:
        raise ProjectError(f"frames is {encoding!r}; expected one of {list(ENCODINGS)}.")
    stored = [np.ascontiguousarray(frames)]
    header = {**facts, "colour_order": "rgb", "frame_encoding": encoding, "conventions": CONVENTIONS}
    header["frame_shape"] = list(frames.shape[1:])
    if encoding == "jpeg":
        jpeg.check_quality(quality)
        stored = [jpeg.encode(frame, quality) for frame in frames]
        header["jpeg_quality"] = quality
    header["content"] = _fingerprint(*stored, arrays["actions"])
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        # One JSON attribute: HDF5 takes 0.14 ms per attribute, which adds up to a second over 800 files.
        file.attrs["header"] = json.dumps(header, sort_keys=True, ensure_ascii=False)
        if encoding == "raw":
            _create(file, "frames", stored[0], (1, *frames.shape[1:]))
        else:
            kind = h5py.vlen_dtype(np.uint8)
            target = file.create_dataset("frames_jpeg", (len(stored),), dtype=kind, track_times=False)
            for step, data in enumerate(stored):
                target[step] = data
            sums = np.array([jpeg.checksum(data) for data in stored], np.uint32)
            _create(file, "frames_crc32", sums, sums.shape)
        for name, array in arrays.items():
            _create(file, name, array, array.shape)


def _create(file: h5py.File, name: str, data: np.ndarray, chunks: tuple[int, ...]) -> None:
    # Only chunks can carry a checksum, so the small arrays are one chunk each.
    file.create_dataset(name, data=data, chunks=chunks, fletcher32=True, track_times=False)


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class OwnLayout(Layout):
    """Versions 1 and 2 of the format. `content` is the SHA-256 of what is stored of frames and actions."""

    name = FORMAT

    def matches(self, file: h5py.File) -> bool:
        """By the `format` attribute; a later version of the format is another layout."""
        return file.attrs.get("format") in FORMATS

    def metadata(self, file: h5py.File, path: Path, options: LabOptions | None) -> Metadata:
        """Header, actions, time stamps and poses."""
        try:
            header = json.loads(file.attrs["header"])
            first = file.attrs["format"] == FORMATS[0]
            if header["colour_order"] != "rgb":
                raise ValueError(f"colour_order {header['colour_order']!r}, not 'rgb'")
            encoding = "raw" if first else header["frame_encoding"]
            if encoding not in ENCODINGS:
                raise ValueError(f"frame_encoding {encoding!r}, not one of {list(ENCODINGS)}")
            length, shape = _frames_of(file, path, encoding, header)
            return Metadata(
                id=str(header["id"]),
                length=length,
                frame_shape=shape,
                actions=dataset(file, path, "actions")[()],
                instructions=tuple(header["instructions"]),
                action_names=tuple(header["action_names"]),
                action_units=tuple(header["action_units"]),
                control_period=float(header["control_period_s"]),
                scenario=str(header["scenario"]),
                group=str(header["group"]),
                content=str(header["content"]),
                timestamps=file["timestamps"][()] if "timestamps" in file else None,
                poses=file["poses"][()] if "poses" in file else None,
                attributes=dict(header["attributes"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ProjectError(
                f"{path}: the header of format {FORMAT} is missing or broken ({error}); write the file again."
            ) from error

    def frames(self, file: h5py.File, start: int, stop: int, options: LabOptions | None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB; a damaged JPEG is named by file and frame."""
        if "frames" in file:
            return file["frames"][start:stop]
        height, width = json.loads(file.attrs["header"])["frame_shape"][:2]
        frames = np.empty((stop - start, height, width, 3), np.uint8)
        stored, sums = file["frames_jpeg"], file["frames_crc32"][start:stop]
        for step in range(start, stop):
            where = f"{file.filename}: frame {step}"
            try:
                data = stored[step]
            except (OSError, RuntimeError) as error:  # one by one, so that the sentence can name the frame
                raise ProjectError(
                    f"{where} cannot be read ({' '.join(str(error).split())}); copy the file again or move it away."
                ) from error
            frames[step - start] = jpeg.decode(data, int(sums[step - start]), (height, width, 3), where)
        return frames


def _frames_of(
    file: h5py.File, path: Path, encoding: str, header: Mapping[str, Any]
) -> tuple[int, tuple[int, int, int]]:
    """T and (H, W, 3), checked against what is stored."""
    if encoding == "raw":
        frames = checked_frames(file, path, "frames")
        return frames.shape[0], (frames.shape[1], frames.shape[2], 3)
    stored, sums = dataset(file, path, "frames_jpeg"), dataset(file, path, "frames_crc32")
    if stored.ndim != 1 or not len(stored) or h5py.check_vlen_dtype(stored.dtype) != np.uint8:
        raise ProjectError(
            f"{path}: 'frames_jpeg' is {stored.dtype} {stored.shape}, expected (T > 0,) of variable-length uint8; "
            "write the file again."
        )
    if sums.shape != stored.shape or sums.dtype != np.uint32:
        raise ProjectError(
            f"{path}: 'frames_crc32' is {sums.dtype} {sums.shape}, expected uint32 {stored.shape}; "
            "write the file again."
        )
    height, width, channels = (int(number) for number in header["frame_shape"])
    if min(height, width) < 1 or channels != 3:
        raise ValueError(f"frame_shape {header['frame_shape']}, not [H, W, 3]")
    return len(stored), (height, width, 3)
