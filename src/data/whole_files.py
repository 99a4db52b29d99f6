"""Owns the note of which episode files were read to their last frame, so that no later run has to do it again.

In: files and the state they had when they were read. Out: whether a file was read whole in the state it has now. Frames
that are resized need no note: their cache file is made of the last frame too (frame_cache.py). The note is for frames
that are used as they are stored, whose checksums (Fletcher-32 and CRC-32 in the project's own format, Adler-32 in gzip)
only reading can compare: 2 ms for 24 frames of 96 px, each time a file is new (40 µs to find the note).
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, exclusive

log = logging.getLogger(__name__)

FORMAT = "whole-files/1"
State = tuple[int, int]
"""Size in bytes and modification time in ns, as `frame_cache.file_state` gives them."""


class WholeFiles:
    """The note, one JSON file that several processes may add to.

    Args:
        path: the JSON file; it is read now, and written by `add` alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._load()

    def holds(self, episode: Path, state: State) -> bool:
        """Whether the file was read to its end when it had this state."""
        return self._known.get(str(episode.resolve())) == state

    def add(self, read: Mapping[Path, State]) -> None:
        """Note these files, beside those that others noted meanwhile; if it cannot be written, they are read again."""
        if not read:
            return
        try:
            with exclusive(self.path):
                self._known = {
                    **self._load(), **{str(episode.resolve()): state for episode, state in read.items()},
                }  # fmt: skip
                files = {name: list(state) for name, state in sorted(self._known.items())}
                atomic_write_json(self.path, {"format": FORMAT, "files": files})
        except (
            ProjectError
        ) as error:  # a shared folder may be read-only; nothing depends on the note but time
            log.info("%d files were read to the end, the next start reads them again (%s)", len(read), error)

    def _load(self) -> dict[str, State]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {FORMAT!r}")
            return {name: (int(size), int(mtime)) for name, (size, mtime) in content["files"].items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is made again, the files are read once more: %s", self.path, error)
            return {}
