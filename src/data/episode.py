"""Owns the episode: its meaning in memory, the project's own file format, and opening any known layout.

In: an `Episode` to write, or a path to open. Out: "mobile-vla/1" HDF5 files, and `EpisodeFile`, a lazy reader that
holds the metadata and fetches frames on demand. The rest of the project never sees HDF5.

Format "mobile-vla/1": datasets `frames` (T, H, W, 3) uint8 RGB, `actions` (T, A) float32, optionally `timestamps`
(T,) and `poses` (T, 3) float64; the attributes are `format` and `header`, a JSON object with all the rest. Frames are
stored raw, one frame per chunk: gzip and lzf are 2-4 times slower to read and save little on textured images. Each
chunk carries a checksum, so damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.core.files import atomic_path
from src.data.lab_hdf5 import LabKeyLayout
from src.data.layouts import Attribute, LabOptions, Layout, Metadata, checked_frames, dataset, keys_of

FORMAT = "mobile-vla/1"
SUFFIXES = (".h5", ".hdf5")
_LFS_HEAD = b"version https://git-lfs"


@dataclass
class Episode:
    """One demonstration of T steps; `actions[t]` is what was commanded after seeing `frames[t]`.

    Attributes:
        id: unique within a data set; also the file's name by convention.
        frames: (T, H, W, 3) uint8 RGB.
        actions: (T, A) float32 in `action_units` (SI).
        instructions: at least one; the first is canonical, the others say the same in other words.
        action_names, action_units: (A,) as in the action space.
        control_period: seconds between steps.
        scenario: label for stratified splits and per-scenario metrics.
        group: near-duplicates share it; a split never cuts a group.
        timestamps: (T,) seconds since the start, where known.
        poses: (T, 3) x m, y m, yaw rad; for evaluation only, never an input of a policy.
        attributes: further facts as plain scalars.
    """

    id: str
    frames: np.ndarray
    actions: np.ndarray
    instructions: tuple[str, ...]
    action_names: tuple[str, ...]
    action_units: tuple[str, ...]
    control_period: float
    scenario: str
    group: str
    timestamps: np.ndarray | None = None
    poses: np.ndarray | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def validate(self, where: str = "") -> None:
        """Raise a ProjectError unless all fields fit together; `where` names the file in the sentence."""
        where = where or f"episode {self.id!r}"
        frames, steps = self.frames, len(self.frames)
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ProjectError(
                f"{where}: frames are {frames.dtype} {frames.shape}, expected uint8 (T > 0, H, W, 3)."
            )
        check_arrays(where, steps, self.actions, self.timestamps, self.poses)
        if not len(self.action_names) == len(self.action_units) == self.actions.shape[1]:
            raise ProjectError(
                f"{where}: {self.actions.shape[1]} action axes, but names {list(self.action_names)} "
                f"and units {list(self.action_units)}; give one of each per axis."
            )
        if not self.instructions or not all(isinstance(t, str) and t.strip() for t in self.instructions):
            raise ProjectError(
                f"{where}: instructions are {self.instructions!r}, expected one or more sentences."
            )
        for name in ("id", "scenario", "group"):
            if not getattr(self, name):
                raise ProjectError(f"{where}: {name} is empty; every episode needs one.")
        if not (math.isfinite(self.control_period) and self.control_period > 0):
            raise ProjectError(
                f"{where}: control_period is {self.control_period}, expected seconds above zero."
            )


def check_arrays(
    where: str, steps: int, actions: np.ndarray, timestamps: np.ndarray | None, poses: np.ndarray | None
) -> None:
    """Raise a ProjectError unless actions (T, A), timestamps (T,) and poses (T, 3) are finite and T steps long."""
    if actions.ndim != 2 or not actions.shape[1] or not np.issubdtype(actions.dtype, np.floating):
        raise ProjectError(f"{where}: actions are {actions.dtype} {actions.shape}, expected float (T, A).")
    for name, array, shape in (
        ("actions", actions, (steps, actions.shape[1])),
        ("timestamps", timestamps, (steps,)),
        ("poses", poses, (steps, 3)),
    ):
        if array is None:
            continue
        if array.shape != shape:
            raise ProjectError(
                f"{where}: {name} have shape {array.shape}, expected {shape} for {steps} frames."
            )
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            raise ProjectError(
                f"{where}: {name} hold NaN or infinity, first at step {bad[0][0]}; record it again."
            )


def write_episode(path: Path, episode: Episode) -> None:
    """Write `episode` to `path` atomically; equal episodes give equal bytes."""
    episode.validate()
    frames = np.ascontiguousarray(episode.frames)
    arrays = {"actions": np.asarray(episode.actions, np.float32)}
    for name in ("timestamps", "poses"):
        value = getattr(episode, name)
        if value is not None:
            arrays[name] = np.asarray(value, np.float64)
    header: dict[str, Any] = {
        "id": episode.id,
        "instructions": list(episode.instructions),
        "action_names": list(episode.action_names),
        "action_units": list(episode.action_units),
        "control_period_s": float(episode.control_period),
        "colour_order": "rgb",
        "scenario": episode.scenario,
        "group": episode.group,
        "content": _fingerprint(frames, arrays["actions"]),
        "attributes": _scalars(episode),
    }
    with atomic_path(Path(path)) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        # One JSON attribute: HDF5 takes 0.14 ms per attribute, which adds up to a second over 800 files.
        file.attrs["header"] = json.dumps(header, sort_keys=True, ensure_ascii=False)
        file.create_dataset(
            "frames", data=frames, chunks=(1, *frames.shape[1:]), fletcher32=True, track_times=False
        )
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _scalars(episode: Episode) -> dict[str, Attribute]:
    plain = {key: v.item() if isinstance(v, np.generic) else v for key, v in episode.attributes.items()}
    for key, value in plain.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ProjectError(
                f"episode {episode.id!r}: attribute {key!r} is {type(value).__name__}, "
                "expected str, int, float or bool."
            )
    return plain


class OwnLayout(Layout):
    """Format "mobile-vla/1". `content` is the SHA-256 of frames and actions, computed when the file was written."""

    name = FORMAT

    def matches(self, file: h5py.File) -> bool:
        """By the `format` attribute; a later version of the format is another layout."""
        return bool(file.attrs.get("format") == FORMAT)

    def metadata(self, file: h5py.File, path: Path, options: LabOptions | None) -> Metadata:
        """Attributes, actions, time stamps and poses."""
        frames = checked_frames(file, path, "frames")
        try:
            header = json.loads(file.attrs["header"])
            if header["colour_order"] != "rgb":
                raise ValueError(f"colour_order {header['colour_order']!r}, not 'rgb'")
            return Metadata(
                id=str(header["id"]),
                length=frames.shape[0],
                frame_shape=(frames.shape[1], frames.shape[2], 3),
                actions=dataset(file, path, "actions")[()],
                instructions=tuple(header["instructions"]),
                action_names=tuple(header["action_names"]),
                action_units=tuple(header["action_units"]),
                control_period=float(header["control_period_s"]),
                scenario=str(header["scenario"]),
                group=str(header["group"]),
                content=str(header["content"]),
                timestamps=file["timestamps"][()] if "timestamps" in file else None,
                poses=file["poses"][()] if "poses" in file else None,
                attributes=dict(header["attributes"]),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ProjectError(
                f"{path}: the header of format {FORMAT} is missing or broken ({error}); write the file again."
            ) from error

    def frames(self, file: h5py.File, start: int, stop: int, options: LabOptions | None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB."""
        return file["frames"][start:stop]


LAYOUTS: tuple[Layout, ...] = (OwnLayout(), LabKeyLayout())
"""Every known layout; the first that matches a file's content reads it."""


class EpisodeFile:
    """One episode on disk. Metadata is read at construction; frames on demand.

    The file is open only during a call: nothing is held across fork, pickling is plain, and thousands of episodes
    need no file handles. Opening costs about 0.3 ms, once per episode where frames are cached.

    Args:
        path: the HDF5 file.
        options: how to read the lab's layouts; the project's own format needs none.
    """

    def __init__(self, path: Path, options: LabOptions | None = None) -> None:
        self.path = Path(path)
        self.options = options
        with self._open() as file:
            layout = next((layout for layout in LAYOUTS if layout.matches(file)), None)
            if layout is None:
                known = ", ".join(known.name for known in LAYOUTS)
                raise ProjectError(
                    f"{self.path} has no known layout: it holds {keys_of(file)}, expected one of {known}; "
                    "convert it or move it away."
                )
            self.layout = layout
            try:
                self.meta = layout.metadata(file, self.path, options)
            except (OSError, RuntimeError, KeyError) as error:
                raise self._damaged(error) from error
        meta = self.meta
        check_arrays(str(self.path), meta.length, meta.actions, meta.timestamps, meta.poses)

    @property
    def id(self) -> str:
        """The episode's unique name."""
        return self.meta.id

    @property
    def length(self) -> int:
        """T, the number of frames and actions."""
        return self.meta.length

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of the stored frames."""
        return self.meta.frame_shape

    @property
    def actions(self) -> np.ndarray:
        """(T, A) float32 in SI units."""
        return self.meta.actions

    @property
    def instructions(self) -> tuple[str, ...]:
        """At least one; the first is canonical."""
        return self.meta.instructions

    @property
    def action_names(self) -> tuple[str, ...]:
        """(A,) axis names."""
        return self.meta.action_names

    @property
    def action_units(self) -> tuple[str, ...]:
        """(A,) SI units."""
        return self.meta.action_units

    @property
    def control_period(self) -> float:
        """Seconds between steps."""
        return self.meta.control_period

    @property
    def scenario(self) -> str:
        """The stratum of the split."""
        return self.meta.scenario

    @property
    def group(self) -> str:
        """Episodes of one group never end up in different splits."""
        return self.meta.group

    @property
    def timestamps(self) -> np.ndarray | None:
        """(T,) seconds, where known."""
        return self.meta.timestamps

    @property
    def poses(self) -> np.ndarray | None:
        """(T, 3) x m, y m, yaw rad, where known; for evaluation only."""
        return self.meta.poses

    @property
    def attributes(self) -> dict[str, Attribute]:
        """Further facts as plain scalars."""
        return self.meta.attributes

    def frames(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop - start, H, W, 3) uint8 RGB; `stop` defaults to the end."""
        stop = self.length if stop is None else stop
        if not 0 <= start < stop <= self.length:
            raise ProjectError(f"{self.path}: frames {start}:{stop} were asked for, it has 0:{self.length}.")
        with self._open() as file:
            try:
                return self.layout.frames(file, start, stop, self.options)
            except (OSError, RuntimeError, KeyError) as error:
                raise self._damaged(error) from error

    def load(self) -> Episode:
        """The whole episode in memory, validated."""
        m = self.meta
        episode = Episode(
            id=m.id,
            frames=self.frames(),
            actions=m.actions,
            instructions=m.instructions,
            action_names=m.action_names,
            action_units=m.action_units,
            control_period=m.control_period,
            scenario=m.scenario,
            group=m.group,
            timestamps=m.timestamps,
            poses=m.poses,
            attributes=dict(m.attributes),
        )
        episode.validate(str(self.path))
        return episode

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ProjectError:
        if not self.path.is_file():
            kind = "is a folder" if self.path.is_dir() else "does not exist"
            return ProjectError(f"{self.path} {kind}, expected an HDF5 episode; check the path.")
        if isinstance(error, PermissionError):
            return ProjectError(f"{self.path} may not be read (permission denied); change its permissions.")
        with self.path.open("rb") as stream:
            head = stream.read(len(_LFS_HEAD))
        if head == _LFS_HEAD:
            return ProjectError(
                f"{self.path} is a Git-LFS pointer, not the episode itself; run `git lfs pull` in that repository."
            )
        reason = " ".join(str(error).split())
        return ProjectError(
            f"{self.path} is truncated, damaged or no HDF5 file ({reason}); copy it again or move it away."
        )


def open_episode(path: Path, options: LabOptions | None = None) -> EpisodeFile:
    """Open an episode of any known layout, recognised by its content."""
    return EpisodeFile(Path(path), options)
