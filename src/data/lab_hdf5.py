"""Owns the lab's HDF5 layouts: what their keys mean, and what has to be taken from options or the file name.

In: an open HDF5 file and `LabOptions`. Out: `Metadata` and RGB frames in the project's conventions.
"""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.layouts import Attribute, LabOptions, Layout, Metadata, checked_frames, dataset

_SCENARIO = re.compile(r"(?<![a-z0-9])(1box|2box)_(hori|vert)_(left|right)(?![a-z0-9])")
_DAY = re.compile(r"episode_(\d{8})_\d{6}")
_FLAGS = {"pattern": ("core", "variant"), "distance": ("close", "medium", "far")}


class LabKeyLayout(Layout):
    """Layouts V1 to V4: key-press episodes, one drive-and-stop per frame.

    Scenario, pattern and distance are only in the file name; `Metadata.from_name` says so. The stored frames are
    compressed, so the file size serves as the fingerprint of their content.
    """

    name = "lab V1-V4 (images, actions, action_event_types)"

    def matches(self, file: h5py.File) -> bool:
        """images, actions and event types at the top level, without the classes that V6 adds."""
        return {"images", "actions", "action_event_types"} <= set(file) and "action_classes" not in file

    def metadata(self, file: h5py.File, path: Path, options: LabOptions | None) -> Metadata:
        """Everything but the frames; the scenario comes from the name, the text from the file or the options."""
        options = options or LabOptions()
        frames = checked_frames(file, path, "images")
        actions = np.asarray(dataset(file, path, "actions")[()], dtype=np.float32)
        if actions.ndim != 2 or actions.shape[1] != 3:
            raise ProjectError(
                f"{path}: 'actions' has shape {actions.shape}, expected (T, 3) linear_x, linear_y, angular_z."
            )
        actions[:, 2] *= options.rotation_sign
        name = _SCENARIO.search(path.stem)
        texts = _stored_texts(file)
        if name is None:
            raise ProjectError(
                f"{path}: the file name does not hold the scenario (1box|2box)_(hori|vert)_(left|right), and this "
                "layout stores it nowhere else; rename the file."
            )
        scenario = name.group(0)
        if not texts:
            texts = tuple(options.instructions.get(scenario, ()))
        if not texts:
            raise ProjectError(
                f"{path} holds no language_instruction and data.lab.instructions has no entry '{scenario}' "
                f"(it has {sorted(options.instructions)}); add the sentence for this scenario."
            )
        attributes = _scalar_attributes(file)
        words = path.stem.split("_")
        for key, values in _FLAGS.items():
            found = [word for word in words if word in values]
            if len(found) == 1:
                attributes[key] = found[0]
        return Metadata(
            id=path.stem,
            length=frames.shape[0],
            frame_shape=(frames.shape[1], frames.shape[2], 3),
            actions=actions,
            instructions=texts,
            action_names=("linear_x", "linear_y", "angular_z"),
            action_units=("m/s", "m/s", "rad/s"),
            control_period=options.control_period,
            scenario=scenario,
            group=_group(path, scenario, options),
            content=str(path.stat().st_size),
            attributes=attributes,
            from_name=("id", "scenario", *(key for key in _FLAGS if key in attributes)),
        )

    def frames(self, file: h5py.File, start: int, stop: int, options: LabOptions | None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB, reordered if the options say the file is BGR."""
        frames = file["images"][start:stop]
        if options is not None and options.colour_order == "bgr":
            frames = np.ascontiguousarray(frames[..., ::-1])
        return frames


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


def _stored_texts(file: h5py.File) -> tuple[str, ...]:
    if "language_instruction" not in file:
        return ()
    values = np.atleast_1d(file["language_instruction"][()])
    return tuple(text for text in (_text(value).strip("\0 ") for value in values) if text)


def _scalar_attributes(file: h5py.File) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for key, value in file.attrs.items():
        if isinstance(value, (str, bytes)):
            found[key] = _text(value)
        elif isinstance(value, np.generic):
            found[key] = value.item()
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
