"""Owns what one process remembers of opening a data folder: the next run of a sweep need not open its files again.

In: how a folder is read, and the state of every file in it. Out: the result for this folder, as long as all of it is
equal; another folder, other options or one changed file drop it. Only the last folder is remembered.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from src.data.whole_files import State

T = TypeVar("T")
States = tuple[tuple[Path, State | None], ...]


def states_of(paths: list[Path]) -> States:
    """Size (bytes) and modification time (ns) of each file; None for one that is not there (a dangling link)."""
    found: list[tuple[Path, State | None]] = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError:
            found.append((path, None))
        else:
            found.append((path, (stat.st_size, stat.st_mtime_ns)))
    return tuple(found)


class LastFolder(Generic[T]):
    """The result for one folder."""

    def __init__(self) -> None:
        self._key: object = None
        self._result: T | None = None

    def get(self, options: object, look: Callable[[], States], make: Callable[[], T]) -> T:
        """`make()`, or what it gave for equal options and states.

        Args:
            options: all that the result depends on beside the files; compared by ==.
            look: the state of every file, before and after `make`: what changed meanwhile is not remembered.
            make: reads the files; what it raises is not remembered.
        """
        before = look()
        if self._result is not None and self._key == (options, before):
            return self._result
        self._key, self._result = None, None  # before the next one is read: never two of them
        result = make()
        if look() == before:
            self._key, self._result = (options, before), result
        return result
