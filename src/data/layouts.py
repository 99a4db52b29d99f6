"""Owns the contract between an HDF5 file and the rest: what a reader of one file layout must deliver.

A new layout is one `Layout` class, added to `LAYOUTS` in src/data/episode.py; nothing else changes.
In: an open HDF5 file. Out: `Metadata` (read once, small) and frames (read on demand, large).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.lab_keys import AXES, KEYS

Attribute = str | int | float | bool


@dataclass(frozen=True)
class LabOptions:
    """How to read what the lab's files leave open. The defaults are assumptions: check one picture and one turn.

    Axis order and signs are applied in one place, src/data/lab_actions.py.

    Args:
        colour_order: "rgb" or "bgr", the order of the stored channels; bgr is turned into RGB.
        rotation_sign: +1 if a positive stored angular_z is counter-clockwise (left), -1 if it is clockwise.
        control_period: seconds one action drives; not stored in the files.
        group_by: "episode", "session" (same scenario on the same day) or "scenario": what the split keeps together.
        lateral_sign: +1 if a positive stored linear_y is left, -1 if it is right.
        axis_order: what the columns of the stored actions are, from the first on.
        axes: the axes to use, in this order; None uses all that are stored, in the order linear_x, linear_y,
            angular_z. An axis that is left out has to be zero in every file.
        class_names: the names of the stored `action_classes` 0, 1, 2 …, where files hold such numbers. Each is then
            compared with the class of its action. None leaves the stored numbers aside, and says so.
        scenario_from: where files that do not state their scenario get it: "name" (of the file), or "none": such
            files are all of scenario "unknown".
    """

    colour_order: str = "rgb"
    rotation_sign: int = 1
    control_period: float = 0.4
    group_by: str = "episode"
    lateral_sign: int = 1
    axis_order: Sequence[str] = AXES
    axes: Sequence[str] | None = None
    class_names: Sequence[str] | None = None
    scenario_from: str = "name"

    def __post_init__(self) -> None:
        for key, allowed in (
            ("colour_order", ("rgb", "bgr")),
            ("rotation_sign", (1, -1)),
            ("lateral_sign", (1, -1)),
            ("group_by", ("episode", "session", "scenario")),
            ("scenario_from", ("name", "none")),
        ):
            if getattr(self, key) not in allowed:
                raise ProjectError(
                    f"data.lab.{key} is {getattr(self, key)!r}; expected one of {list(allowed)}."
                )
        if not (math.isfinite(self.control_period) and self.control_period > 0):
            raise ProjectError(
                f"data.lab.control_period is {self.control_period}; expected seconds above zero."
            )
        self._set_names("axis_order", self.axis_order, AXES)
        if self.axes is None:
            object.__setattr__(self, "axes", tuple(axis for axis in AXES if axis in self.axis_order))
        else:
            self._set_names("axes", self.axes, self.axis_order)
        if self.class_names is not None:
            self._set_names("class_names", self.class_names, KEYS.class_names)

    def assumptions(self) -> tuple[str, ...]:
        """What no file of the lab states, as "<key>=<value>"; for `Metadata.assumed`."""
        return (
            f"colour_order={self.colour_order}",
            f"rotation_sign={self.rotation_sign:+d}",
            f"lateral_sign={self.lateral_sign:+d}",
            f"axis_order={'/'.join(self.axis_order)}",
            f"control_period={self.control_period:g}",
        )

    def _set_names(self, key: str, value: Any, allowed: Sequence[str]) -> None:
        names = () if isinstance(value, str) else tuple(value)
        if not names or len(set(names)) != len(names) or not set(names) <= set(allowed):
            raise ProjectError(
                f"data.lab.{key} is {value!r}; expected a list without repeats of some of {list(allowed)}."
            )
        object.__setattr__(self, key, names)


@dataclass(frozen=True)
class Metadata:
    """Everything about an episode except its frames; the fields mean what they mean in `Episode`.

    Attributes:
        frame_shape: (H, W, 3) of the stored frames.
        instructions: what the file itself holds; none where it holds none, see src/data/instruction.py.
        content: a fingerprint of the recording, as cheap as the layout allows (see the layout's class).
        from_name: the fields that had to be taken from the file name, for the record.
        assumed: "<key>=<value>" for every fact that no file states and data.lab declared, e.g. "colour_order=rgb".
        remarks: what a person should know and what does not forbid to use the file; the same words for every file
            with the same remark, so that they can be counted.
    """

    id: str
    length: int
    frame_shape: tuple[int, int, int]
    actions: np.ndarray
    instructions: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    control_period: float
    scenario: str
    group: str
    content: str
    timestamps: np.ndarray | None = None
    poses: np.ndarray | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)
    from_name: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


PROVENANCE = {"from_name": "provenance.from_name", "assumed": "provenance.assumed"}
"""Field of `Metadata` -> the attribute that keeps it where an episode is written again in the project's own format."""
BETWEEN = ", "


def with_provenance(meta: Metadata) -> dict[str, Attribute]:
    """The attributes of an episode, and with them what was declared or taken from a file name.

    A copy in another format states axes, signs and colour order as facts; without these attributes nobody could tell
    any more that a person should confirm them.
    """
    kept = {key: BETWEEN.join(getattr(meta, field_)) for field_, key in PROVENANCE.items()}
    return {**meta.attributes, **{key: value for key, value in kept.items() if value}}


def restore_provenance(meta: Metadata, where: str) -> Metadata:
    """`meta` with the fields of `PROVENANCE` that its attributes keep; the inverse of `with_provenance`.

    Raises:
        ProjectError: one of these attributes is not text.
    """
    found: dict[str, tuple[str, ...]] = {}
    for field_, key in PROVENANCE.items():
        value = meta.attributes.get(key, "")
        if not isinstance(value, str):
            raise ProjectError(
                f"{where}: attribute {key!r} is {value!r}, expected words with commas between; write the file again."
            )
        if value:
            found[field_] = tuple(value.split(BETWEEN))
    return replace(meta, **found) if found else meta  # type: ignore[arg-type]  # two fields, both tuples of text


class Layout(ABC):
    """Reads one file layout. Stateless: the file and the options are passed in."""

    name: str

    @abstractmethod
    def matches(self, file: h5py.File) -> bool:
        """Whether the file's content (never its name) has this layout."""

    @abstractmethod
    def metadata(self, file: h5py.File, path: Path, options: LabOptions | None) -> Metadata:
        """Read everything but the frames; a ProjectError names the file and the key at fault."""

    @abstractmethod
    def frames(self, file: h5py.File, start: int, stop: int, options: LabOptions | None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB."""


def dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """The dataset `key`, or a ProjectError that lists what is there."""
    node = file.get(key)
    if not isinstance(node, h5py.Dataset):
        raise ProjectError(
            f"{path} has no dataset '{key}' (found {keys_of(file)}); record or convert it again."
        )
    return node


def checked_frames(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """The frames dataset, checked to be (T > 0, H, W, 3) uint8."""
    frames = dataset(file, path, key)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ProjectError(
            f"{path}: '{key}' is {frames.dtype} {frames.shape}, expected uint8 (T, H, W, 3) with T above 0; "
            "convert the file or move it away."
        )
    return frames


def keys_of(file: h5py.File) -> str:
    """The datasets and groups of the file with their shapes, for error sentences."""
    found: list[str] = []

    def visit(name: str, node: h5py.Dataset | h5py.Group) -> None:
        found.append(f"{name} {node.shape}" if isinstance(node, h5py.Dataset) else f"{name}/")

    file.visititems(visit)
    return ", ".join(found[:12]) + (", …" if len(found) > 12 else "") if found else "no datasets"
