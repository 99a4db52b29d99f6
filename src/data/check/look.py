"""Owns reading every file once: open it, decode a few frames, keep only small things, in several processes.

In: paths. Out: per path an episode with a `Sample`, or a `Fault`. A file that ends the reading process itself is found
and named too; all others are still read.
"""

import hashlib
import io
import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from src.data.actions import ActionSpace
from src.data.check.files import open_one
from src.data.check.finding import Fault, Sample
from src.data.episode import EpisodeFile
from src.data.layouts import LabOptions

TINY = 16
"""Side in pixels of the averaged frames that checkers compare; a scene is still told apart, noise is gone."""
CELLS = 32
"""As CELLS in src/data/groups.py, which is not imported here: it would bring torch into every reading process."""
_PICTURE = 240
_FEW = 8
"""So few files are read in this process: starting others would take longer."""

SECONDS = 20.0
"""A folder that can be decoded in about so long is decoded whole."""
_PER_FRAME, _PER_BYTE = 2e-3, 3.5e-8
"""Seconds of one core to open a file and decode one frame, and per byte of the decoded frame: 0.1 s at 720p (gzip)."""

Looked = tuple[EpisodeFile, Sample] | Fault


def look(path: Path, action: ActionSpace, lab: LabOptions | None, frames: int) -> Looked:
    """Open one file and decode `frames` frames, evenly spread from the first to the last."""
    episode = open_one(path, action, lab)
    if isinstance(episode, Fault):
        return episode
    steps = sample_steps(episode.length, frames)
    digests, tiny, flat, jpeg = [], [], [], b""
    try:
        for step in steps:
            frame = np.ascontiguousarray(episode.frames(step, step + 1)[0])
            digests.append(hashlib.sha256(frame.data).hexdigest())
            picture = Image.fromarray(frame)
            if is_flat(frame):
                flat.append(step)
            tiny.append(np.asarray(picture.resize((TINY, TINY), Image.Resampling.BOX)))
            if step == 0:
                first = np.asarray(picture.resize((CELLS, CELLS), Image.Resampling.BILINEAR))
            jpeg = jpeg or as_jpeg(frame)
    except Exception as error:  # whatever a damaged picture provokes in a decoder is a fault of that file
        why = str(error).replace(str(path), "the file").rstrip(".")
        return Fault(path, "damaged_frames", f"{path}: frame {step} cannot be decoded: {why}.")
    return episode, Sample(steps, np.stack(tiny), tuple(digests), tuple(flat), jpeg, first)


def spread(total: int, count: int | None) -> list[int]:
    """`count` of 0 … total - 1, evenly chosen; all of them for None."""
    if count is None or count >= total:
        return list(range(total))
    return [round(x) for x in np.linspace(0, total - 1, count)]


def sample_steps(length: int, frames: int) -> tuple[int, ...]:
    """Up to `frames` distinct steps from 0 to length - 1, both ends included where there are two."""
    return tuple(sorted({round(x) for x in np.linspace(0, length - 1, min(frames, length))}))


def is_flat(frame: np.ndarray) -> bool:
    """Whether (H, W, 3) is one single colour. A few pixels of a real picture settle it, so most are never compared."""
    colour = frame[0, 0]
    return bool((frame[::32, ::32] == colour).all() and (frame == colour).all())


def as_jpeg(frame: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB as a small JPEG."""
    picture = Image.fromarray(frame)
    picture.thumbnail((_PICTURE, _PICTURE), Image.Resampling.BOX)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def look_at_all(
    paths: Sequence[Path],
    action: ActionSpace,
    lab: LabOptions | None,
    frames: int,
    workers: int,
    tick: Callable[[], None],
    sampled: int | None = None,
) -> list[Looked]:
    """`look` at every path, in the order given; `tick` is called after each file.

    Args:
        frames: decoded per episode.
        workers: processes; 0 takes one per core.
        sampled: of so many episodes, evenly chosen, `frames` are decoded, of the others the first only; None: of all.
    """
    chosen = set(spread(len(paths), sampled))
    numbers = {path: frames if i in chosen else 1 for i, path in enumerate(paths)}
    found = _look_at(numbers, action, lab, workers, tick)
    return [found[path] for path in paths]


def _look_at(
    numbers: Mapping[Path, int],
    action: ActionSpace,
    lab: LabOptions | None,
    workers: int,
    tick: Callable[[], None],
) -> dict[Path, Looked]:
    """`look` at every path, with so many frames each."""
    one = partial(look, action=action, lab=lab)
    workers = _processes(len(numbers), workers)
    if workers > 1:
        return _all(one, numbers, workers, tick)
    results = {}
    for path, number in numbers.items():
        results[path] = one(path, frames=number)
        tick()
    return results


def _processes(files: int, workers: int) -> int:
    return 1 if files <= _FEW else min(workers or cores(), files)


def seconds_to_decode(found: Sequence[Looked], workers: int) -> float:
    """About how long it takes to decode every frame of what could be opened, by `workers` processes (0: all cores).

    An estimate from lengths and frame sizes alone, so that it does not depend on what else the computer does.
    """
    episodes = [one[0] for one in found if not isinstance(one, Fault)]
    cost = sum(e.length * (_PER_FRAME + _PER_BYTE * math.prod(e.frame_shape)) for e in episodes)
    return cost / _processes(len(found), workers)


def unfinished(found: Sequence[Looked]) -> dict[Path, int]:
    """Path -> length in steps of every episode of which some frame is not decoded."""
    episodes = [one for one in found if not isinstance(one, Fault)]
    return {e.path: e.length for e, sample in episodes if len(sample.steps) < e.length}


def look_whole(
    found: Sequence[Looked],
    action: ActionSpace,
    lab: LabOptions | None,
    workers: int,
    tick: Callable[[], None],
) -> list[Looked]:
    """`found` with every frame of every episode decoded; `tick` is called after each file that is read again."""
    again = _look_at(unfinished(found), action, lab, workers, tick)
    return [one if isinstance(one, Fault) else again.get(one[0].path, one) for one in found]


def _all(
    one: Callable[..., Looked], frames: Mapping[Path, int], workers: int, tick: Callable[[], None]
) -> dict[Path, Looked]:
    """`one` for every path; a file that ends the process that reads it becomes a fault.

    A process that dies takes the whole pool with it, and with it all files in waiting. They are tried again in two
    halves, and so on, until the file stands alone: a handful of new pools, instead of one for each file that waited.
    """
    found = _in_processes(one, frames, min(workers, len(frames)), tick)
    lost = [path for path in frames if path not in found]
    if lost and len(frames) == 1:
        tick()
        return {
            lost[0]: Fault(lost[0], "crashes_reader", f"{lost[0]}: reading it ended the process that tried.")
        }
    middle = (len(lost) + 1) // 2
    for half in (lost[:middle], lost[middle:]):
        if half:
            found |= _all(one, {path: frames[path] for path in half}, workers, tick)
    return found


def _in_processes(
    one: Callable[..., Looked], frames: Mapping[Path, int], workers: int, tick: Callable[[], None]
) -> dict[Path, Looked]:
    # Spawned, not forked: HDF5 and torch hold locks and threads that a fork would copy in any state.
    found: dict[Path, Looked] = {}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(one, path, frames=number): path for path, number in frames.items()}
        for job in as_completed(jobs):
            try:
                found[jobs[job]] = job.result()
            except BrokenProcessPool:
                continue  # this file or another one; the caller tries it again
            tick()
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
