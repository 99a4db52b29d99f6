"""Owns the lab's HDF5 layouts V1 to V6: where each keeps its parts, and what comes from options or the file name.

In: an open HDF5 file and `LabOptions`. Out: `Metadata` and RGB frames in the project's conventions. Sentences are
those of the file alone, often none.

    V1-V4  images, actions, action_event_types                  18 key presses, an image and a drive of 0.4 s each
    V5     observations/images, actions, language_instruction   14-19 of them; no events, nothing says stop
    V6     images, actions, action_classes, action_event_types  62-80 steps; the scenario is in attributes
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.lab_actions import chosen, compare_classes, motion, names_of
from src.data.layouts import Attribute, LabOptions, Layout, Metadata, checked_frames, dataset
from src.data.planes import read_frames

_DAY = re.compile(r"episode_(\d{8})_\d{6}")
_FLAGS = {"pattern": ("core", "variant"), "distance": ("close", "medium", "far")}
UNKNOWN = "unknown"
"""The scenario of files that do not state one, where data.lab.scenario_from is "none"."""


class LabLayout(Layout):
    """What V1 to V6 have in common. The frames are compressed, so the file's size is the fingerprint of content.

    A layout says where the frames are (`images`), and how the file name states the scenario (`pattern`, described by
    `described`), or overrides `scenario`.
    """

    images = "images"
    pattern: re.Pattern[str]
    described: str

    def metadata(self, file: h5py.File, path: Path, options: LabOptions | None) -> Metadata:
        """Everything but the frames; `from_name` lists what came from the file name."""
        options = options or LabOptions()
        where = str(path)
        frames = checked_frames(file, path, self.images)
        moves = motion(np.asarray(dataset(file, path, "actions")[()]), options, where)
        if len(moves) != frames.shape[0]:
            raise ProjectError(
                f"{path}: actions have shape {moves.shape}, expected {(frames.shape[0], 3)} for {frames.shape[0]} "
                "frames; convert the file or move it away."
            )
        scenario, named = self.scenario(file, path, options)
        actions, names, units = chosen(moves, options, where)
        attributes, found_in_name = _attributes(file), _flags(path)
        facts, remarks = self.facts(file, path, options, moves)
        if attributes.get("num_frames", frames.shape[0]) != frames.shape[0]:
            remarks = (*remarks, "the attribute num_frames is not the number of stored frames")
        if "stop" not in names_of(moves):
            remarks = (*remarks, "no action is a stop, so stopping cannot be learned from the file")
        return Metadata(
            id=path.stem,
            length=frames.shape[0],
            frame_shape=(frames.shape[1], frames.shape[2], 3),
            actions=actions,
            instructions=_instructions(file, path),
            action_names=names,
            action_units=units,
            control_period=options.control_period,
            scenario=scenario,
            group=_group(path, scenario, options),
            content=str(path.stat().st_size),
            attributes={**attributes, **found_in_name, **facts},
            from_name=("id", *(["scenario"] if named else []), *found_in_name),
            assumed=options.assumptions(),
            remarks=remarks,
        )

    def scenario(self, file: h5py.File, path: Path, options: LabOptions) -> tuple[str, bool]:
        """The scenario, and whether it came from the file name."""
        if options.scenario_from == "none":
            return UNKNOWN, False
        name = self.pattern.search(path.stem)
        if name is None:
            raise ProjectError(
                f"{path}: the file name does not hold the scenario {self.described}, and this layout stores it "
                "nowhere else; rename the file, or set data.lab.scenario_from=none to train without scenarios."
            )
        return "_".join(name.groups()), True

    def facts(
        self, file: h5py.File, path: Path, options: LabOptions, moves: np.ndarray
    ) -> tuple[dict[str, Attribute], tuple[str, ...]]:
        """Further attributes and remarks of this layout; `moves` is (T, 3) in the project's convention."""
        return {}, ()

    def frames(self, file: h5py.File, start: int, stop: int, options: LabOptions | None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB, reordered if the options say the file is BGR."""
        frames = read_frames(file[self.images], start, stop)
        if options is not None and options.colour_order == "bgr":
            frames = np.ascontiguousarray(frames[..., ::-1])
        return frames


class LabKeyLayout(LabLayout):
    """V1 to V4. Scenario, pattern and distance are only in the file name."""

    name = "lab V1-V4 (images, actions, action_event_types)"
    pattern = re.compile(r"(?<![a-z0-9])(1box|2box)_(hori|vert)_(left|right)(?![a-z0-9])")
    described = "(1box|2box)_(hori|vert)_(left|right)"

    def matches(self, file: h5py.File) -> bool:
        """Images and event types at the top level, without the classes that V6 adds."""
        return {"images", "action_event_types"} <= set(file) and not {"action_classes", "observations"} & set(
            file
        )

    def facts(
        self, file: h5py.File, path: Path, options: LabOptions, moves: np.ndarray
    ) -> tuple[dict[str, Attribute], tuple[str, ...]]:
        """How often each event was recorded."""
        return {"action_events": _events(file, path, len(moves))}, ()


class LabPathLayout(LabLayout):
    """V5. The scenario, <place of the target>_<path>, is only in the file name; the sentence is in the file."""

    name = "lab V5 (observations/images, actions, language_instruction)"
    images = "observations/images"
    pattern = re.compile(r"(?<![a-z0-9])target_(center|left|right)_(straight|left|right)_path(?![a-z0-9])")
    described = "target_(center|left|right)_(straight|left|right)_path"

    def matches(self, file: h5py.File) -> bool:
        """Images below observations, and none at the top level."""
        return "observations/images" in file and "images" not in file


class LabClassLayout(LabLayout):
    """V6. The scenario is in the attributes cx_position and cx_path, in the words of V5: <place>_<path>.

    The stored classes are compared with the actions, see `compare_classes`; the actions alone are used.
    """

    name = "lab V6 (images, actions, action_classes, action_event_types)"

    def matches(self, file: h5py.File) -> bool:
        """Images and classes at the top level."""
        return {"images", "action_classes"} <= set(file) and "observations" not in file

    def scenario(self, file: h5py.File, path: Path, options: LabOptions) -> tuple[str, bool]:
        """From the attributes, never from the name."""
        parts = []
        for key in ("cx_position", "cx_path"):
            if key not in file.attrs:
                raise ProjectError(
                    f"{path} has no attribute '{key}' (found {sorted(file.attrs)}), which states its scenario; "
                    "record or convert it again."
                )
            parts.append(_text(file.attrs[key], f"{path}: attribute '{key}'").strip())
        return "_".join(parts), False

    def facts(
        self, file: h5py.File, path: Path, options: LabOptions, moves: np.ndarray
    ) -> tuple[dict[str, Attribute], tuple[str, ...]]:
        """How often each event and each pair of class number and direction was recorded."""
        numbers = np.asarray(dataset(file, path, "action_classes")[()])
        summary, remarks = compare_classes(numbers, moves, options, str(path))
        return {"action_events": _events(file, path, len(moves)), "action_classes": summary}, remarks


def _events(file: h5py.File, path: Path, steps: int) -> str:
    """ "<event> x<count>, …", after checking that there is one per step."""
    stored = dataset(file, path, "action_event_types")
    if stored.shape != (steps,) or h5py.check_string_dtype(stored.dtype) is None:
        raise ProjectError(
            f"{path}: 'action_event_types' is {stored.dtype} {stored.shape}, expected words ({steps},) as there are "
            "actions; convert the file or move it away."
        )
    counts = Counter(_text(value, f"{path}: 'action_event_types'") for value in stored[()])
    return ", ".join(f"{name} x{count}" for name, count in sorted(counts.items()))


def _instructions(file: h5py.File, path: Path) -> tuple[str, ...]:
    """The sentences in the file; none where it holds none or empty ones, which data.instruction then has to give."""
    if "language_instruction" not in file:
        return ()
    stored = dataset(file, path, "language_instruction")
    if h5py.check_string_dtype(stored.dtype) is None:
        raise ProjectError(
            f"{path}: 'language_instruction' is {stored.dtype}, expected text; record or convert it again."
        )
    where = f"{path}: 'language_instruction' ({stored.dtype})"
    values = np.atleast_1d(stored[()]).ravel()
    return tuple(text for text in (_text(value, where).strip("\0 \t\r\n") for value in values) if text)


def _group(path: Path, scenario: str, options: LabOptions) -> str:
    if options.group_by == "scenario":
        return scenario
    if options.group_by == "session":
        day = _DAY.search(path.stem)
        if day is None:
            raise ProjectError(
                f"{path}: data.lab.group_by is 'session', but the name has no date episode_YYYYMMDD_HHMMSS; "
                "rename the file or set data.lab.group_by=episode."
            )
        return f"{day.group(1)}_{scenario}"
    return path.stem


def _flags(path: Path) -> dict[str, Attribute]:
    """Pattern and distance, where the name states them once."""
    words = path.stem.split("_")
    found: dict[str, Attribute] = {}
    for key, values in _FLAGS.items():
        stated = [word for word in words if word in values]
        if len(stated) == 1:
            found[key] = stated[0]
    return found


def _attributes(file: h5py.File) -> dict[str, Attribute]:
    """The attributes that are one value each."""
    found: dict[str, Attribute] = {}
    for key, value in file.attrs.items():
        if isinstance(value, bytes):
            found[key] = value.decode("utf-8", "backslashreplace")
        elif isinstance(value, str):
            found[key] = str(value)
        elif isinstance(value, np.generic):
            found[key] = value.item()
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProjectError(
            f"{where} is no UTF-8 text (byte {error.start} of {len(value)}; a field of fixed size cuts longer "
            "text); record or convert it again."
        ) from error
