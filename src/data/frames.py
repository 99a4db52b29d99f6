"""Owns getting frames into memory at the training size, each one decoded and resized at most once.

In: episode files. Out: uint8 tensors (n, 3, s, s). Frames that already have the size are read as they are. Others are
resized once (by `prepare` under a progress bar, or on first use) and kept in `cache_dir` as one memory-mapped array per
episode, found again by later runs. What has been read stays in memory up to a limit; beyond it, frames come from the
files each time. What a cache file looks like and when it is trusted belongs to frame_cache.py.

`prepare` sees every frame once, so it is where damage shows. A file that changes after its actions were read would pair
new frames with old actions; each reading compares size and modification time (4 µs) and stops instead.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core.errors import ProjectError
from src.data.episode import EpisodeFile
from src.data.frame_cache import CacheEntry, Source, file_state
from src.data.progress import track
from src.data.whole_files import State, WholeFiles

log = logging.getLogger(__name__)

_FRAMES_AT_ONCE = 16
"""Frames decoded together while resizing: 44 MB of 720p, instead of a whole episode."""


def resize_frames(frames: np.ndarray, size: int) -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, size, size) uint8, the whole view squeezed to a square.

    Antialiased bilinear on uint8: within one level of PIL's BILINEAR on pictures (two, rarely, on pure noise), six
    times faster.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if pixels.shape[-2:] != (size, size):
        pixels = functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
    return pixels.contiguous()


class DamagedFrames(ProjectError):
    """The frames of a file cannot be decoded, though it opened well; the sentence names the file."""


class FrameStore:
    """Frames of many episodes at one size.

    Args:
        episodes: the files; a row is an index into this list.
        image_size: s, the side of the square frames in pixels.
        cache_dir: folder of the resized frames, and of the note which others were read to the end.
        memory_limit_gb: how much may stay in memory; each worker process has this limit for itself.
        states: size (bytes) and modification time (ns) of each file when its actions were read; None takes those of
            now. A file in another state is refused.
    """

    def __init__(
        self,
        episodes: Sequence[EpisodeFile],
        image_size: int,
        cache_dir: Path,
        memory_limit_gb: float,
        states: Sequence[State] | None = None,
    ) -> None:
        self.episodes = list(episodes)
        self.image_size = image_size
        self.cache_dir = Path(cache_dir)
        self.states = [file_state(e.path) for e in self.episodes] if states is None else list(states)
        self._free_bytes = round(memory_limit_gb * 1e9)
        self._held: dict[int, Tensor] = {}
        self._proven: set[int] = set()

    def prepare(self, damaged: dict[int, DamagedFrames] | None = None) -> int:
        """See every frame that no run has seen yet, under a progress bar; how many episodes it were.

        What has another size is resized into the cache; the rest is read to the end. Workers find everything done.
        Safe to be interrupted and to run in several processes: what one has finished the others take over.

        Args:
            damaged: gets row -> sentence of every file whose frames cannot be decoded, and the others go on; None
                raises the first one (a DamagedFrames).
        """
        rows = range(len(self.episodes))
        resized = [row for row in rows if self._resizes(row) and not self._entry(row).is_current()]
        if resized:
            log.info(
                "resizing the frames of %d of %d episodes to %d px once, into %s",
                len(resized), len(rows), self.image_size, self.cache_dir,
            )  # fmt: skip
        for row in track(resized, f"resizing frames to {self.image_size} px"):
            self._try(row, self._resized, damaged)
        note = WholeFiles(self.cache_dir / "whole.json")
        plain = [
            row
            for row in rows
            if not self._resizes(row) and not note.holds(self.episodes[row].path, self.states[row])
        ]
        whole: dict[Path, State] = {}
        try:
            for row in track(plain, "reading frames once"):
                if self._try(row, self._read_through, damaged):
                    whole[self.episodes[row].path] = self.states[row]
        finally:
            note.add(whole)  # an interrupted start need not begin anew
        return len(resized) + len(plain)

    def copy_into(self, out: Tensor, row: int, steps: np.ndarray) -> None:
        """Fill `out` (n, 3, s, s) uint8 with the frames `steps` (n,) of episode `row`, in ascending order."""
        first, last = int(steps[0]), int(steps[-1])
        held = self._hold(row)
        part = self._read(row, first, last + 1) if held is None else held[first : last + 1]
        if len(part) == len(steps):
            out.copy_(part)
        else:
            torch.index_select(part, 0, torch.from_numpy(steps - first), out=out)

    def get(self, row: int, start: int = 0, stop: int | None = None) -> Tensor:
        """The frames start … stop-1 of episode `row`: (stop - start, 3, s, s) uint8."""
        steps = np.arange(start, self.episodes[row].length if stop is None else stop)
        out = torch.empty((len(steps), 3, self.image_size, self.image_size), dtype=torch.uint8)
        self.copy_into(out, row, steps)
        return out

    def __getstate__(self) -> dict[str, object]:
        # A spawned worker fills its own memory; sending what is held would copy gigabytes through a pipe.
        return {**self.__dict__, "_held": {}}

    def _hold(self, row: int) -> Tensor | None:
        """The episode's frames in memory, or None where the memory limit is reached."""
        held = self._held.get(row)
        if held is None:
            needed = self.episodes[row].length * 3 * self.image_size**2
            if needed > self._free_bytes:
                return None
            held = self._read(row, 0, self.episodes[row].length)
            self._held[row] = held
            self._free_bytes -= needed
        return held

    def _read(self, row: int, start: int, stop: int) -> Tensor:
        self._require_unchanged(row)  # before the cache makes room for the frames of another recording
        if self._resizes(row):
            found = torch.from_numpy(np.array(self._resized(row)[start:stop]))
        else:
            found = resize_frames(self._decode(row, start, stop), self.image_size)
        self._require_unchanged(row)  # and not while it was read
        return found

    def _decode(self, row: int, start: int, stop: int) -> np.ndarray:
        try:
            return self.episodes[row].frames(start, stop)
        except ProjectError as error:
            self._require_unchanged(row)  # half a copy is no damage
            raise DamagedFrames(str(error)) from error

    def _require_unchanged(self, row: int) -> None:
        path, was = self.episodes[row].path, self.states[row]
        now = file_state(path)
        if now != was:
            raise ProjectError(
                f"{path} was replaced or changed while the run was going on (size {now[0]}, was {was[0]}; mtime_ns "
                f"{now[1]}, was {was[1]}), so its frames need not belong to the actions that were read; restore it, or "
                "start a new run with it."
            )

    def _try(self, row: int, look: Callable[[int], object], damaged: dict[int, DamagedFrames] | None) -> bool:
        """Whether the frames of the row could be decoded; what else goes wrong (a full disk) is raised."""
        try:
            self._require_unchanged(row)
            look(row)
            self._require_unchanged(row)
        except DamagedFrames as error:
            if damaged is None:
                raise
            damaged[row] = error
            return False
        return True

    def _read_through(self, row: int) -> None:
        for start, stop in _parts_of(self.episodes[row].length):
            self._decode(row, start, stop)

    def _resizes(self, row: int) -> bool:
        return self.episodes[row].frame_shape[:2] != (self.image_size, self.image_size)

    def _resized(self, row: int) -> np.ndarray:
        """The memory-mapped resized frames of an episode, made now if they are not there or not to be trusted."""
        frames = self._entry(row).open_or_make(lambda: self._parts(row), row in self._proven)
        self._proven.add(row)
        return frames

    def _parts(self, row: int) -> Iterator[np.ndarray]:
        for start, stop in _parts_of(self.episodes[row].length):
            yield resize_frames(self._decode(row, start, stop), self.image_size).numpy()

    def _entry(self, row: int) -> CacheEntry:
        episode = self.episodes[row]
        colour = episode.options.colour_order if episode.options is not None else "rgb"
        shape = (episode.length, 3, self.image_size, self.image_size)
        return CacheEntry(
            self.cache_dir / f"{self.image_size}px", Source(episode.path, colour, episode.layout.name), shape
        )


def _parts_of(length: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the pieces of `length` frames that are decoded together."""
    for start in range(0, length, _FRAMES_AT_ONCE):
        yield start, min(start + _FRAMES_AT_ONCE, length)
