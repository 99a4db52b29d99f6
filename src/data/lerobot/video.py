"""Owns the camera's mp4 files: many episodes behind one another in one file, found again by their time.

In: RGB frames. Out: H.264 files, and frames decoded from a given second on. Encoding as LeRobot does it: yuv420p and a
key frame every second frame, so that any frame is reached by decoding at most two. Lossy: `psnr` says how much.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from src.core.errors import ProjectError

CODEC, PIXELS, KEY_FRAME_EVERY = "libx264", "yuv420p", 2


class VideoWriter:
    """Appends frames (n, H, W, 3) uint8 RGB to one mp4 file; `close` finishes it.

    Args:
        path: the new file; its folder is made.
        rate: frames per second.
        crf: H.264's quality, 0 (largest) to 51; about 6 more halves the file.
    """

    def __init__(self, path: Path, rate: Fraction, height: int, width: int, crf: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames = 0
        self.bytes = 0
        self._container = av.open(str(path), "w")
        options = {"crf": str(crf), "g": str(KEY_FRAME_EVERY)}
        stream: Any = self._container.add_stream(CODEC, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, PIXELS
        stream.codec_context.time_base = 1 / rate
        self._stream = stream
        self._base = 1 / rate  # the muxer changes the stream's own on the first packet

    def append(self, frames: np.ndarray) -> None:
        """Encode these frames behind the others."""
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = self.frames, self._base
            self._mux(self._stream.encode(frame))
            self.frames += 1

    def close(self) -> None:
        """Flush the encoder and write the index of the file."""
        self._mux(self._stream.encode(None))
        self._container.close()

    def release(self) -> None:
        """Let go of the file as it is: for a failure, where the file is thrown away."""
        with contextlib.suppress(av.FFmpegError):  # the failure itself is already on its way to the user
            self._container.close()

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)


def video_info(height: int, width: int, fps: int | float) -> dict[str, Any]:
    """What LeRobot keeps about a video feature in info.json."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": PIXELS,
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def read_video(path: Path, times: np.ndarray, fps: float) -> np.ndarray:
    """The frames shown at `times` (n,), seconds in the file, ascending: (n, H, W, 3) uint8 RGB.

    Raises a ProjectError where a time has no frame within a quarter of a frame, so never a neighbour instead.
    """
    found: list[np.ndarray] = []
    tolerance = 0.25 / fps
    last = -1.0
    try:
        for moment, frame in _decoded(path, float(times[0]) - tolerance):
            last = moment
            while len(found) < len(times) and moment > times[len(found)] - tolerance:
                if moment > times[len(found)] + tolerance:
                    raise ProjectError(
                        f"{path} shows no frame at {times[len(found)]:.4f} s (the next one is at {moment:.4f} s); "
                        "the video does not fit meta/episodes, copy the data set again."
                    )
                found.append(frame.to_ndarray(format="rgb24"))
            if len(found) == len(times):
                return np.stack(found)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise ProjectError(f"{path} cannot be decoded ({reason}); copy the data set again.") from error
    raise ProjectError(
        f"{path} ends at {max(last, 0):.4f} s, before the frame at {times[len(found)]:.4f} s; copy the data set again."
    )


def psnr(one: np.ndarray, two: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 arrays in dB, 10 log10(255² / mean squared difference); inf if equal."""
    error = np.mean((one.astype(np.float32) - two.astype(np.float32)) ** 2, dtype=np.float64)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def _decoded(path: Path, start: float) -> Iterator[tuple[float, Any]]:
    """(second, frame) from the key frame at or before `start` on."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ProjectError(f"{path} holds no video stream; copy the data set again.")
        stream = container.streams.video[0]
        base = stream.time_base or Fraction(1, av.time_base)
        container.seek(max(int(start / base), 0), stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is not None:
                yield float(frame.pts * base), frame
