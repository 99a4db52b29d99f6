"""Owns the cache files of resized frames: their format, when one is trusted, and how several processes share them.

In: a source file, the shape of its resized frames, and a way to make them. Out: a memory-mapped array.

A cache file is a plain .npy array followed by a footer: JSON (source, shape, CRC-32 of the pixels), its length, and a
closing word. It is written beside its place and renamed, so a kill leaves the old file or the new one; what a killed
process left behind is removed by the next that makes the same entry. A lock lets one process make an entry while the
others wait for it. The pixels are checked against the CRC-32 once per process, on first use.

Identity is path, size and modification time in nanoseconds. A hash of the content would be the safer key, but reading
30 MB per episode at every start to find 3 MB costs what the cache is there to save; the content itself is guarded by
the split's manifest. The price: copying or touching a file resizes it once more, and a file that was replaced with
size and time kept is not noticed here. One path has one entry, so a changed file replaces its entry.
"""

import hashlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError
from src.core.files import atomic_path, exclusive

log = logging.getLogger(__name__)

_END = b"FRAMES-2"
"""Another number for another way of resizing, so that no run takes frames of the old one."""
_TAIL = struct.Struct("<I8s")
"""Length of the JSON before it, and the closing word."""


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and modification time in ns of an episode file; a ProjectError if it is not there any more."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be read ({error.strerror}), expected the episode that was there when the run "
            "started; restore it and start again."
        ) from error
    return stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        path: the episode file.
        colour: how its channels are read, "rgb" or "bgr".
        layout: name of the file layout that reads it.
    """

    path: Path
    colour: str
    layout: str

    def key(self) -> str:
        """Names the entry: the same file read in the same way, whatever is in it now."""
        facts = (str(self.path.resolve()), self.colour, self.layout)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]

    def stamp(self) -> dict[str, Any]:
        """What tells the present state of the file from any other: size in bytes, modification time in ns."""
        size, mtime_ns = file_state(self.path)
        return {"path": str(self.path.resolve()), "size": size, "mtime_ns": mtime_ns}


@dataclass(frozen=True)
class CacheEntry:
    """The resized frames of one episode.

    Attributes:
        folder: where the cache file lies.
        source: the file it is made from.
        shape: (T, 3, s, s) of the uint8 frames.
    """

    folder: Path
    source: Source
    shape: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The cache file."""
        return self.folder / f"{self.source.key()}.npy"

    def is_current(self) -> bool:
        """Whether the file is there, whole, and of the present source; the pixels are not read."""
        return self._fault() is None

    def open_or_make(self, make: Callable[[], Iterable[np.ndarray]], proven: bool = False) -> np.ndarray:
        """The frames (T, 3, s, s) uint8, memory-mapped and read-only.

        Args:
            make: gives the frames in parts (n, 3, s, s); called only where the file cannot be used.
            proven: the pixels were compared with their checksum in this process already.
        """
        found, _ = self._open(proven)
        if found is not None:
            return found
        try:
            with exclusive(self.folder / self.source.key()[:2]):  # at most 256 lock files
                found, fault = self._open(proven)  # another process may have made it while this one waited
                if found is None:
                    if fault:
                        log.warning("%s is made again from %s: %s", self.path, self.source.path, fault)
                    self._make(make)
                    found, fault = self._open(True)
        except ProjectError as error:
            if str(self.folder) in str(error):
                raise ProjectError(
                    f"{error} The resized frames go there; data.cache_dir chooses another folder."
                ) from error
            raise
        if found is None:
            raise ProjectError(
                f"{self.path} was written but cannot be used ({fault}); check the disk, or choose another "
                "data.cache_dir."
            )
        return found

    def _open(self, proven: bool) -> tuple[np.ndarray | None, str]:
        """The mapped frames, or None and why the file cannot be used ("": it is not there)."""
        fault = self._fault()
        if fault is not None:
            return None, fault
        frames: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        if proven or zlib.crc32(frames.data) == self._footer()["crc32"]:
            return frames, ""
        return None, "its pixels do not fit their checksum"

    def _fault(self) -> str | None:
        """Why the file cannot be used: "" if it is not there; None if it can."""
        try:
            footer = self._footer()
        except FileNotFoundError:
            return ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"it is damaged or cut off ({error})"
        stamp = self.source.stamp()
        if footer["source"] != stamp:
            old = footer["source"]
            words = [f"{key} {stamp[key]}, was {old.get(key)}" for key in stamp if stamp[key] != old.get(key)]
            return f"the episode changed ({', '.join(words)})"
        if tuple(footer["shape"]) != self.shape:
            return f"it has shape {footer['shape']}, expected {list(self.shape)}"
        return None

    def _footer(self) -> dict[str, Any]:
        with self.path.open("rb") as file:
            whole = file.seek(0, os.SEEK_END)
            if whole < _TAIL.size:
                raise ValueError(f"{whole} bytes")
            file.seek(whole - _TAIL.size)
            length, end = _TAIL.unpack(file.read(_TAIL.size))
            if end != _END or length > whole - _TAIL.size:
                raise ValueError("no closing word")
            file.seek(whole - _TAIL.size - length)
            footer: dict[str, Any] = json.loads(file.read(length))
        if footer["bytes"] != whole - _TAIL.size - length:
            raise ValueError(f"{whole - _TAIL.size - length} bytes of array, expected {footer['bytes']}")
        if not isinstance(footer["source"], dict) or not isinstance(footer["shape"], list):
            raise ValueError("a footer without source and shape")
        return footer

    def _make(self, make: Callable[[], Iterable[np.ndarray]]) -> None:
        for left in self.folder.glob(f".{self.path.stem}.*.tmp*"):
            left.unlink(
                missing_ok=True
            )  # of a killed process: whoever lives and makes this entry holds the lock
        before = self.source.stamp()
        crc, steps = 0, 0
        with atomic_path(self.path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for part in make():
                data = np.ascontiguousarray(part).data
                crc = zlib.crc32(data, crc)
                steps += len(part)
                file.write(data)
            if steps != self.shape[0] or self.source.stamp() != before:
                raise ProjectError(
                    f"{self.source.path} changed while its frames were read ({steps} frames, expected "
                    f"{self.shape[0]}); let the copying finish and start again."
                )
            facts = {
                "source": before,
                "shape": list(self.shape),
                "crc32": crc,
                "bytes": file.tell(),
            }
            footer = json.dumps(facts).encode()
            file.write(footer + _TAIL.pack(len(footer), _END))
