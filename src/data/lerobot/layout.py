"""Owns the layout of a LeRobotDataset v3.0 on disk, and of the file that keeps what LeRobot has no place for.

In: facts about a data set. Out: paths, feature descriptions, the tables' column names, `meta/mobile_vla.json`.

    meta/info.json                                  version, fps, features, totals, path templates
    meta/stats.json, meta/tasks.parquet             statistics per feature; task_index -> sentence
    meta/episodes/chunk-000/file-000.parquet        one row per episode: where its rows and its video are
    data/chunk-000/file-000.parquet                 one row per frame: action, indices, timestamp, embedded images
    videos/<camera>/chunk-000/file-000.mp4          with frames=video; several episodes behind one another
    meta/mobile_vla.json                            ours; LeRobot ignores it

`timestamp` is frame_index / fps, as LeRobot asks. Recorded time stamps and poses are columns `mobile_vla.timestamp`
and `mobile_vla.pose`: LeRobot feeds `observation.*` to policies, and these two must never be fed.
Source: lerobot 0.4.4, datasets/utils.py and datasets/lerobot_dataset.py.
"""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError

VERSION = "v3.0"
FORMAT = "mobile-vla-lerobot/1"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
EXTRA = "meta/mobile_vla.json"
CHUNK_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{CHUNK_FILE}.parquet"
DATA_PATH = f"data/{CHUNK_FILE}.parquet"
VIDEO_PATH = "videos/{video_key}/" + CHUNK_FILE + ".mp4"
CHUNKS_SIZE = 1000
"""Files per chunk folder, LeRobot's default."""
MB = 1024**2
CAMERA = "observation.images.front"
PROVENANCE_KEY = "mobile_vla.provenance"
"""Ours in info.json, beside LeRobot's keys: {"assumed", "from_name"} over all episodes, see src/data/layouts.py. Each
episode's own stand in meta/mobile_vla.json; these stay where that file is moved away."""
POSE, TIMESTAMP = "mobile_vla.pose", "mobile_vla.timestamp"
INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def pyarrow(name: str) -> Any:
    """The module `pyarrow` or `pyarrow.<name>`; a ProjectError that says how to get it where it is missing."""
    try:
        return importlib.import_module(f"pyarrow.{name}" if name else "pyarrow")
    except ImportError as error:
        raise ProjectError(
            "LeRobot data sets are read and written with pyarrow, which is not installed; run "
            "`pip install -c constraints.txt -e '.[lerobot]'`."
        ) from error


def frame_rate(control_period: float) -> Fraction:
    """Frames per second of a control period in s, as the fraction that a video file can hold."""
    return Fraction(1 / control_period).limit_denominator(100_000)


def fps_of(control_period: float) -> int | float:
    """`fps` of info.json: whole where it is whole (LeRobot's usual case), else a fraction such as 2.5."""
    rate = frame_rate(control_period)
    return rate.numerator if rate.denominator == 1 else float(rate)


def features(
    camera: str,
    frame_shape: tuple[int, int, int],
    action_names: tuple[str, ...],
    video: dict[str, Any] | None,
    with_poses: bool,
    with_timestamps: bool,
) -> dict[str, dict[str, Any]]:
    """The `features` of info.json; `video` is what LeRobot says about the encoding, None with images."""
    table: dict[str, dict[str, Any]] = {
        camera: {
            "dtype": "image" if video is None else "video",
            "shape": list(frame_shape),
            "names": ["height", "width", "channels"],
        },
        "action": {"dtype": "float32", "shape": [len(action_names)], "names": list(action_names)},
    }
    if video is not None:
        table[camera]["info"] = video
    if with_poses:
        table[POSE] = {"dtype": "float64", "shape": [3], "names": ["x_m", "y_m", "yaw_rad"]}
    if with_timestamps:
        table[TIMESTAMP] = {"dtype": "float64", "shape": [1], "names": ["s"]}
    for name, dtype in INDEX_COLUMNS.items():
        table[name] = {"dtype": dtype, "shape": [1], "names": None}
    return table


@dataclass(frozen=True)
class Place:
    """Which file of a chunked series: both count from 0."""

    chunk_index: int = 0
    file_index: int = 0

    def next(self) -> Place:
        """The file after this one."""
        if self.file_index + 1 < CHUNKS_SIZE:
            return Place(self.chunk_index, self.file_index + 1)
        return Place(self.chunk_index + 1, 0)

    def path(self, template: str, camera: str = "") -> str:
        """The path that a template of info.json gives for this file."""
        return template.format(chunk_index=self.chunk_index, file_index=self.file_index, video_key=camera)


def read_info(root: Path) -> dict[str, Any]:
    """meta/info.json of a version 3 data set, checked for the keys that reading needs."""
    info = _json(root / INFO)
    version = str(info.get("codebase_version"))
    if not version.startswith("v3."):
        raise ProjectError(
            f"{root / INFO}: codebase_version is {version}, expected {VERSION}; bring it up with LeRobot's own "
            "converter (python -m lerobot.datasets.v30.convert_dataset_v21_to_v30)."
        )
    missing = [key for key in ("fps", "features", "data_path", "total_episodes") if key not in info]
    if missing:
        raise ProjectError(f"{root / INFO} lacks {missing}; it is no whole LeRobot data set, copy it again.")
    return info


def read_extra(root: Path) -> dict[str, Any] | None:
    """meta/mobile_vla.json, or None in a data set that was not written here."""
    path = root / EXTRA
    if not path.exists():
        return None
    extra = _json(path)
    if extra.get("format") != FORMAT:
        raise ProjectError(
            f"{path}: format is {extra.get('format')!r}, expected {FORMAT!r}; move the file away to import with the "
            "options under `foreign`."
        )
    return extra


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path} cannot be read ({error}); copy the data set again.") from error
    if not isinstance(content, dict):
        raise ProjectError(f"{path} holds {type(content).__name__}, expected a JSON object; copy it again.")
    return content
