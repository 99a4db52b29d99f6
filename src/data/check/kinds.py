"""Owns the diagnosis of a file that a reader refused: under which code it falls.

In: the path and data.lab. Out: one of the codes of `ADVICE` (files.py). Everything is asked of the file itself, in the
order in which a reader needs it; no sentence is searched for words. The first question that the file fails decides.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.episode import LAYOUTS, OwnLayout
from src.data.lab_actions import chosen, compare_classes, motion
from src.data.lab_hdf5 import LabLayout
from src.data.layouts import LabOptions, Layout

_LFS_HEAD = b"version https://git-lfs"
_PARTS = (
    "images",
    "observations",
    "actions",
    "action_event_types",
    "action_classes",
    "frames",
    "frames_jpeg",
)
"""A file of no known layout that holds one of these is an episode that lost the others."""


def kind_of(path: Path, lab: LabOptions | None) -> str:
    """The code of a refused file, "unusable" where none of the questions below explains it."""
    if path.is_dir():
        return "not_hdf5"
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_LFS_HEAD))
    except OSError:
        return "unreadable"
    if not head:
        return "empty_file"
    if head == _LFS_HEAD:
        return "lfs_pointer"
    if not h5py.is_hdf5(path):
        return "not_hdf5"
    try:
        with h5py.File(path, "r") as file:
            return next(_failures(file, path, lab or LabOptions()), "unusable")
    except (OSError, RuntimeError, KeyError, ValueError):
        return "truncated"


def _failures(file: h5py.File, path: Path, lab: LabOptions) -> Iterator[str]:
    """The codes of all that is wrong; what comes later presumes what came before."""
    layout = next((layout for layout in LAYOUTS if layout.matches(file)), None)
    if layout is None:
        yield "missing_data" if set(_PARTS) & set(file) else "unknown_layout"
        return
    own = isinstance(layout, OwnLayout)
    wanted = _datasets(file, layout)
    if any(not isinstance(file.get(name), h5py.Dataset) for name in wanted):
        yield "missing_data"
        return
    frames, others = file[wanted[0]], {name: file[name] for name in wanted[1:]}
    if not _frames_fit(frames) or not all(
        _fits(name, node, len(frames), None if own else len(lab.axis_order)) for name, node in others.items()
    ):
        yield "wrong_shape"
        return
    if not all(np.isfinite(node[()]).all() for node in others.values() if node.dtype.kind == "f"):
        yield "non_finite_actions"
        return
    if own:
        yield from _own_header(file)
    elif isinstance(layout, LabLayout):
        yield from _lab_words(file, path, lab, layout)


def _datasets(file: h5py.File, layout: Layout) -> list[str]:
    """The datasets that a file of the layout must have, the frames first."""
    if isinstance(layout, LabLayout):
        more = {"action_event_types", "action_classes"} & set(file)
        return [layout.images, "actions", *sorted(more)]
    frames = "frames_jpeg" if "frames_jpeg" in file else "frames"
    return [frames, "actions", *(name for name in ("timestamps", "poses") if name in file)]


def _frames_fit(frames: h5py.Dataset) -> bool:
    if h5py.check_vlen_dtype(frames.dtype) is not None:  # JPEG files, one per step
        return frames.ndim == 1 and len(frames) > 0 and h5py.check_vlen_dtype(frames.dtype) == np.uint8
    return frames.ndim == 4 and frames.shape[-1] == 3 and frames.dtype == np.uint8 and 0 not in frames.shape


def _fits(name: str, node: h5py.Dataset, steps: int, axes: int | None) -> bool:
    """Whether shape and type are those of an episode of `steps` frames and, where known, `axes` action axes."""
    if name == "actions":
        columns = node.shape[1:] if axes is None else (axes,)
        return (
            node.dtype.kind == "f" and node.ndim == 2 and node.shape == (steps, *columns) and 0 not in columns
        )
    if name == "poses":
        return node.dtype.kind == "f" and node.shape == (steps, 3)
    kind = {
        "timestamps": node.dtype.kind == "f",
        "action_classes": node.dtype.kind in "iu",
        "action_event_types": h5py.check_string_dtype(node.dtype) is not None,
    }[name]
    return kind and node.shape == (steps,)


def _own_header(file: h5py.File) -> Iterator[str]:
    try:
        texts = json.loads(file.attrs["header"])["instructions"]
    except (KeyError, ValueError, TypeError):
        yield "broken_header"
        return
    if not all(isinstance(text, str) and text.strip() for text in texts):
        yield "missing_instruction"


def _lab_words(file: h5py.File, path: Path, lab: LabOptions, layout: LabLayout) -> Iterator[str]:
    if _refuses(lambda: layout.scenario(file, path, lab)):
        yield "missing_scenario"
    stored = file.get("language_instruction")
    if stored is not None and not (isinstance(stored, h5py.Dataset) and _is_text(stored)):
        yield "broken_text"
    moves = motion(np.asarray(file["actions"][()]), lab, str(path))
    if _refuses(lambda: chosen(moves, lab, str(path))):
        yield "wrong_action_space"
    if "action_classes" in file:
        numbers = np.asarray(file["action_classes"][()])
        if _refuses(lambda: compare_classes(numbers, moves, lab, str(path))):
            yield "wrong_classes"


def _refuses(question: Callable[[], object]) -> bool:
    try:
        question()
    except ProjectError:
        return True
    return False


def _is_text(stored: h5py.Dataset) -> bool:
    if h5py.check_string_dtype(stored.dtype) is None:
        return False
    try:
        for value in np.atleast_1d(stored[()]).ravel():
            if isinstance(value, bytes):
                value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
