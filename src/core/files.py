"""Owns crash-safe writing: after a kill at any instant a path holds the old content or the new one, never a mix.

In: a destination and its content (bytes, text, a JSON-like object, or a block that writes a temporary path).
Out: the finished file or folder. Operating-system failures become a ProjectError that names the path and reason.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from src.core.errors import ProjectError


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at `path` by `data`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` in UTF-8 with line feeds, on every platform."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path, obj: Any) -> None:
    """Replace the file at `path` by `obj` as indented JSON.

    NumPy scalars and arrays, tuples, sets and paths become plain JSON; a non-finite float becomes null,
    because JSON has no NaN and an undefined figure must still leave a file that every reader can parse.
    """
    try:
        text = json.dumps(_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ProjectError(f"{path} cannot be written as JSON: {error}; pass plain values.") from error
    atomic_write_text(path, text + "\n")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success sync it to disk and rename it to `path`.

    If the block raises, the temporary file is removed and the old file at `path` is untouched.
    The suffix is kept, so that libraries that look at it (h5py, numpy, pillow) behave as with the real name.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem[:80]}.", suffix=f".tmp{path.suffix}", dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error
    temporary = Path(name)
    try:
        try:
            yield temporary
            os.chmod(
                temporary, 0o666 & ~_umask()
            )  # mkstemp makes 0600, which would hide results from colleagues
            _sync(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise _cannot_write(path, error) from error
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success rename it to `path`, which must not hold anything yet."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ProjectError(
            f"{path} already exists and is not an empty folder; choose another path or delete it."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        try:
            yield temporary
            os.chmod(temporary, 0o777 & ~_umask())
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
            os.replace(temporary, path)  # POSIX: also replaces an existing empty folder
        except OSError as error:
            raise _cannot_write(path, error) from error
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process (or thread) at a time work on `path`; the others wait here.

    The lock is a hidden file beside `path`. It belongs to the open file, so it ends with the process, however it ends.
    """
    lock = path.parent / f".{path.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    except OSError as error:
        raise _cannot_write(lock, error) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def file_sha256(path: Path) -> str:
    """SHA-256 of the file's content in hex digits, read in blocks of 1 MiB; empty where there is no such file."""
    if not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(obj: Any) -> Any:
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, (set, frozenset)):
        return [_plain(value) for value in sorted(obj)]
    if isinstance(obj, np.ndarray):
        return _plain(obj.tolist())
    if isinstance(obj, np.generic):
        return _plain(obj.item())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    if isinstance(obj, Path):
        return str(obj)
    return obj


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    # The rename itself lives in the folder. Some file systems (network mounts) refuse to sync a folder: the content
    # is already safe then, and the rename stays atomic, so this is not an error of the write.
    try:
        _sync(folder)
    except OSError:
        return


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _cannot_write(path: Path, error: OSError) -> ProjectError:
    return ProjectError(
        f"{path} cannot be written: {error.strerror or error}; check free space and permissions."
    )
