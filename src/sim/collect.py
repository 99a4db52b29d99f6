"""A folder of demonstrations: parallel, resumable, the same bytes whatever the number of workers.

Flows in: what to record and where. Flows out: one HDF5 episode per slot and, last of all, `dataset.json` with
settings, counts and the SHA-256 of every file. A folder without `dataset.json` is unfinished; calling `collect` again
keeps what is whole and records the rest.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from rich.progress import Progress

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, file_sha256
from src.data.episode import open_episode, write_episode
from src.sim.recording import Settings, record

MARKER = "dataset.json"
STARTED = "collecting.json"  # the settings of an unfinished folder
FORMAT = "mobile-vla-dataset/1"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class _Slot:
    """What became of one slot: file name, SHA-256, frames, failed attempts, whether it was there already. `file` is
    None when no attempt succeeded."""

    file: str | None
    sha256: str
    frames: int
    dropped: int
    kept: bool


def collect(
    out: Path | str,
    suite: str = "full1",
    split: str = "train",
    episodes: int = 800,
    image_size: int = 96,
    noise: float = 0.25,
    seed: int = 0,
    workers: int = 0,
    language: str = "en",
    twins: str = "none",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Record `episodes` demonstrations of a suite into the folder `out` and return the content of its
    `dataset.json`, with `kept`, the number of episodes that were there already.

    Args:
        out: folder; empty, or with a data set of the same settings, finished or not (more `episodes` than it has
            extends it), else a ProjectError.
        suite, split: as in `sample_task`.
        episodes: number of episodes, twins included.
        image_size: side of the frames in px.
        noise: standard deviation of the action noise (m/s and rad/s) and, scaled, of the start; only successful
            drives are kept.
        seed: of layouts and noise; seeds share no layout (up to 100,000 layouts each).
        workers: processes; 0 takes one per core, 1 records in this process.
        language: en or ko.
        twins: none; side: every layout a second time with left and right exchanged; target: a second time naming
            another object; both: four times. Twins share `Episode.group`.
        overwrite: start over in a folder that holds a data set of other settings.
        progress: show a progress bar.
    """
    settings = Settings(suite, split, episodes, image_size, noise, seed, language, twins)
    if workers < 0:
        raise ProjectError(f"workers is {workers}, expected 0 (one per core) or more; set workers.")
    folder = Path(out)
    if overwrite:
        _clear(folder)
    finished = _prepare(folder, settings)
    if finished is not None:
        return finished
    task = partial(_do_slot, folder, settings)
    slots = []
    with Progress(disable=not progress) as bar, _mapper(min(workers or _cores(), episodes)) as run:
        line = bar.add_task(f"collecting {suite} {split}", total=episodes)
        for slot in run(task, range(episodes)):
            slots.append(slot)
            bar.advance(line)
    return _finish(folder, settings, slots)


def read_dataset(folder: Path | str) -> dict[str, Any]:
    """The content of `dataset.json` of a finished data set; a ProjectError when the folder is missing or unfinished."""
    path = Path(folder) / MARKER
    if not path.is_file():
        raise ProjectError(
            f"{folder} is not a finished data set (no {MARKER}); run `python -m src.collect out={folder}`."
        )
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path} cannot be read ({error}); delete it and collect again.") from error
    if not isinstance(dataset, dict) or dataset.get("format") != FORMAT:
        raise ProjectError(f"{path} is not of format {FORMAT}; delete the folder and collect again.")
    return dataset


# ---------------------------------------------------------------- the folder


def _clear(folder: Path) -> None:
    """Delete a data set, and nothing that is not one."""
    if not folder.exists():
        return
    if not (folder / MARKER).exists() and not (folder / STARTED).exists() and any(folder.glob("*.h5")):
        raise ProjectError(
            f"{folder} holds episodes of unknown origin and overwrite=true would delete them; move them."
        )
    (folder / MARKER).unlink(missing_ok=True)
    for file in [*folder.glob("*.h5"), folder / STARTED]:
        file.unlink(missing_ok=True)


def _prepare(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Make the folder ready; the data set itself when it is already whole."""
    wanted = asdict(settings)
    if (folder / MARKER).exists():
        dataset = read_dataset(folder)
        _require_same(folder, dataset["settings"], wanted)
        whole = all(_digest(folder / name) == digest for name, digest in dataset["files"].items())
        if whole and dataset["settings"] == wanted:
            return {**dataset, "kept": dataset["episodes"]}
        # More are wanted, or a file is gone or damaged: the good ones are kept, the others recorded.
        (folder / MARKER).unlink()
    elif (folder / STARTED).exists():
        try:
            started = json.loads((folder / STARTED).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ProjectError(f"{folder / STARTED} cannot be read ({error}); use overwrite=true.") from error
        _require_same(folder, started, wanted)
    elif folder.exists() and not folder.is_dir():
        raise ProjectError(f"out={folder} is a file, expected a folder; choose another path.")
    elif folder.exists() and any(folder.glob("*.h5")):
        raise ProjectError(
            f"{folder} holds episodes of unknown origin, expected an empty folder; choose another out."
        )
    atomic_write_json(folder / STARTED, wanted)
    # What a killed writer left behind under a temporary name.
    for leftover in folder.glob(".*.tmp.h5"):
        leftover.unlink(missing_ok=True)
    # Episodes beyond the wanted number, or half-known ones, would be read as part of the data set.
    wanted_files = {f"{settings.slot_id(slot)}.h5" for slot in range(settings.episodes)}
    for file in folder.glob("*.h5"):
        if file.name not in wanted_files:
            file.unlink()
    return None


def _digest(path: Path) -> str:
    """SHA-256 of the file; read once per process in each state (size, mtime_ns) of it."""
    try:
        stat = path.stat()
    except OSError:
        return file_sha256(path)
    return _digest_of(path.absolute(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=20_000)
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    return file_sha256(path)


def _require_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """The same settings, at most fewer episodes."""
    different = [
        f"{key} {found.get(key)!r} instead of {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value and not (key == "episodes" and found.get(key, 0) < value)
    ]
    if different:
        raise ProjectError(
            f"{folder} holds a data set with {', '.join(different)}; "
            "choose another out, or start over with overwrite=true."
        )


def _finish(folder: Path, settings: Settings, slots: list[_Slot]) -> dict[str, Any]:
    files = {slot.file: slot.sha256 for slot in slots if slot.file is not None}
    if not files:
        raise ProjectError(f"{folder}: no drive succeeded with noise {settings.noise}; lower noise.")
    listing = json.dumps(files, sort_keys=True)
    dataset: dict[str, Any] = {
        "format": FORMAT,
        "settings": asdict(settings),
        "hash": hashlib.sha256(listing.encode()).hexdigest(),
        "episodes": len(files),
        "frames": sum(slot.frames for slot in slots),
        "dropped_attempts": sum(slot.dropped for slot in slots),
        "left_out": [settings.slot_id(i) for i, slot in enumerate(slots) if slot.file is None],
        "files": files,
    }
    atomic_write_json(folder / MARKER, dataset)
    (folder / STARTED).unlink(missing_ok=True)
    return {**dataset, "kept": sum(slot.kept for slot in slots)}


# ---------------------------------------------------------------- the work


def _do_slot(folder: Path, settings: Settings, slot: int) -> _Slot:
    """Keep the slot's file when it is whole and of these settings, else record it."""
    path = folder / f"{settings.slot_id(slot)}.h5"
    if path.exists():
        try:
            found = open_episode(path).load()
        except ProjectError:
            path.unlink()
        else:
            if found.attributes.get("settings") == settings.digest and found.id == path.stem:
                dropped = int(found.attributes["dropped_attempts"])
                return _Slot(path.name, file_sha256(path), len(found.frames), dropped, kept=True)
            path.unlink()
    episode, dropped = record(settings, slot)
    if episode is None:
        return _Slot(None, "", 0, dropped, kept=False)
    write_episode(path, episode)
    return _Slot(path.name, file_sha256(path), len(episode.frames), dropped, kept=False)


def _cores() -> int:
    """Cores this process may use; a container often has fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_Run = Callable[[Callable[[int], _Slot], range], Iterator[_Slot]]


@contextmanager
def _mapper(workers: int) -> Iterator[_Run]:
    """An ordered map over worker processes, or in this process for one worker."""
    if workers == 1:
        yield map
        return
    # Spawned, not forked: the caller may hold threads (torch, a logger) that do not survive a fork. One thread each.
    before = {key: os.environ.get(key) for key in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_die_with_parent)
    try:
        yield partial(pool.map, chunksize=4)
    except BrokenProcessPool as error:
        raise ProjectError(
            f"a collecting process died ({error}); free memory or lower workers, then run again."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def _die_with_parent() -> None:
    """A killed collector must not leave workers behind: they would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
