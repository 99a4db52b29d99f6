"""Owns reading one folder of TensorBoard event files: curves as they were logged, and whether the files are whole.

In: a folder with events.out.tfevents.* files. Out: `Curves`. Needs the extra `tensorboard`, and no TensorFlow.
TensorBoard itself stops at a damaged record without a word, so every file is checked first.
"""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

from src.core.errors import ProjectError

PATTERN = "events.out.tfevents.*"


@dataclass(frozen=True)
class Point:
    """One logged value."""

    step: int
    value: float
    """As stored: float32 for what torch's writer wrote."""
    wall_time: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Curves:
    """Everything that a folder's event files hold of scalars."""

    scalars: dict[str, list[Point]]
    """Tag → points in the order they were logged."""
    cut: tuple[str, ...]
    """Names of files whose last record is incomplete: the writer was killed; what came before is here."""


def event_files(folder: Path) -> list[Path]:
    """Event files directly in `folder`, oldest first (their names begin with the time)."""
    return sorted(path for path in folder.glob(PATTERN) if path.is_file())


def digest(files: list[Path]) -> str:
    """One SHA-256 over the contents of all files, in order, in hex digits."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def read_curves(folder: Path) -> Curves:
    """All scalars below `folder`, those dropped that a restart of the run has logged again.

    Raises:
        ProjectError: a file is damaged before its end.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    cut = tuple(path.name for path in event_files(folder) if _is_cut(path))
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it announces restarts, which are no news here
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})  # 0: keep every point
    events.Reload()
    scalars = {
        tag: [Point(int(e.step), float(e.value), float(e.wall_time)) for e in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    for tag in events.Tags()["tensors"]:  # scalars of TensorFlow 2's writer
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            scalars[tag] = [
                Point(int(e.step), float(tensor_util.make_ndarray(e.tensor_proto).item()), float(e.wall_time))
                for e in events.Tensors(tag)
            ]
    return Curves(scalars, cut)


def _is_cut(path: Path) -> bool:
    """Read the file record by record: does it end within one?

    Raises:
        ProjectError: a record's checksum is wrong.
    """
    from tensorboard.compat.tensorflow_stub import errors
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New

    reader = PyRecordReader_New(str(path))
    try:
        while True:
            reader.GetNext()
    except errors.OutOfRangeError:
        return False
    except errors.DataLossError as error:
        if "truncated" in str(error).lower():
            return True
        raise ProjectError(
            f"{path}: a record's checksum is wrong, expected a whole event file; it was damaged, take it from a copy."
        ) from error
    finally:
        reader.file_handle.close()
