"""Owns the episode: its meaning in memory, writing it, and opening a file of any known layout.

In: an `Episode` to write, or a path to open. Out: files of the project's own format (own_hdf5.py), and `EpisodeFile`,
a lazy reader that holds the metadata and fetches frames on demand. The rest of the project never sees HDF5.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from src.core.errors import ProjectError
from src.data.episode_checks import check_arrays, check_labels
from src.data.jpeg import QUALITY
from src.data.lab_hdf5 import LabClassLayout, LabKeyLayout, LabPathLayout
from src.data.layouts import (
    Attribute,
    LabOptions,
    Layout,
    Metadata,
    keys_of,
    restore_provenance,
    with_provenance,
)
from src.data.own_hdf5 import FORMAT, OwnLayout, write_own

__all__ = ["FORMAT", "SUFFIXES", "Episode", "EpisodeFile", "open_episode", "write_episode"]

SUFFIXES = (".h5", ".hdf5")
"""How an episode's file name ends, in small letters or capitals."""
_LFS_HEAD = b"version https://git-lfs"


@dataclass
class Episode:
    """One demonstration of T steps; `actions[t]` is what was commanded after seeing `frames[t]`.

    Attributes:
        id: unique within a data set; also the file's name by convention.
        frames: (T, H, W, 3) uint8 RGB.
        actions: (T, A) float32 in `action_units` (SI).
        instructions: the first is canonical, the others say the same in other words. A file that was recorded
            without has none; to be written, an episode needs one or more.
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
        _check_labels(where, self)


def _check_labels(where: str, labels: Episode | Metadata) -> None:
    check_labels(
        where,
        labels.actions.shape[1],
        labels.action_names,
        labels.action_units,
        labels.instructions,
        labels.control_period,
        id=labels.id,
        scenario=labels.scenario,
        group=labels.group,
    )


def write_episode(path: Path, episode: Episode, frames: str = "raw", quality: int = QUALITY) -> None:
    """Write `episode` to `path` atomically; equal episodes give equal bytes.

    Args:
        path: the HDF5 file; its folder is made.
        episode: validated first; a ProjectError says what does not fit, and nothing is written.
        frames: "raw" keeps every bit and reads 2 to 6 times faster; "jpeg" takes a fifth (96 px) to a ninth (720p) of
            the space and loses a little, so what is read back is what PIL decodes, not what was given.
        quality: 1 to 100, for "jpeg" only.
    """
    episode.validate()
    if not episode.instructions:
        raise ProjectError(
            f"episode {episode.id!r}: instructions are {episode.instructions!r}, expected one or more sentences; say "
            "what was to be done."
        )
    arrays = {"actions": np.asarray(episode.actions, np.float32)}
    for name in ("timestamps", "poses"):
        value = getattr(episode, name)
        if value is not None:
            arrays[name] = np.asarray(value, np.float64)
    facts: dict[str, Any] = {
        "id": episode.id,
        "instructions": list(episode.instructions),
        "action_names": list(episode.action_names),
        "action_units": list(episode.action_units),
        "control_period_s": float(episode.control_period),
        "scenario": episode.scenario,
        "group": episode.group,
        "attributes": _scalars(episode),
    }
    write_own(Path(path), episode.frames, arrays, facts, frames, quality)


def _scalars(episode: Episode) -> dict[str, Attribute]:
    plain = {key: v.item() if isinstance(v, np.generic) else v for key, v in episode.attributes.items()}
    for key, value in plain.items():
        if not isinstance(value, (str, int, float, bool)):
            raise ProjectError(
                f"episode {episode.id!r}: attribute {key!r} is {type(value).__name__}, "
                "expected str, int, float or bool."
            )
    return plain


LAYOUTS: tuple[Layout, ...] = (OwnLayout(), LabKeyLayout(), LabPathLayout(), LabClassLayout())
"""Every known layout. A file's content matches one of them at most."""


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
                self.meta = restore_provenance(layout.metadata(file, self.path, options), str(self.path))
            except (OSError, RuntimeError, KeyError) as error:
                raise self._damaged(error) from error
        meta = self.meta
        check_arrays(str(self.path), meta.length, meta.actions, meta.timestamps, meta.poses)
        _check_labels(str(self.path), meta)

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
        """What the file says, the first being canonical; none where it says nothing (see src/data/instruction.py)."""
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

    def retold(self, instructions: tuple[str, ...], group: str | None = None) -> EpisodeFile:
        """A copy with other sentences, and another group where one is given; the file stays as it is."""
        other = copy.copy(self)
        other.meta = replace(
            self.meta, instructions=instructions, group=self.group if group is None else group
        )
        return other

    def load(self) -> Episode:
        """The whole episode in memory, validated; its attributes also say what was only declared (layouts.py)."""
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
            attributes=with_provenance(m),
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
