"""Owns reading a LeRobotDataset v3.x, ours or anybody's: its tables and its frames, episode by episode.

In: the folder. Out: per episode the row of meta/episodes, the rows of frames as arrays, and RGB frames. Only what the
layout documents is used: path templates of info.json, indices of meta/episodes, never the order of files.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from src.core.errors import ProjectError
from src.data.lerobot.layout import EXTRA, TASKS, Place, pyarrow, read_extra, read_info
from src.data.lerobot.video import read_video


class LeRobotFolder:
    """A data set on disk.

    Attributes:
        info: meta/info.json.
        extra: meta/mobile_vla.json, None in a data set that was not written here.
        rows: meta/episodes, ordered by episode_index, without the statistics.
        tasks: task_index -> sentence.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.info = read_info(root)
        self.extra = read_extra(root)
        self.rows = self._episode_rows()
        self.tasks = self._read_tasks()
        if len(self.rows) != self.info["total_episodes"]:
            raise ProjectError(
                f"{root}: meta/episodes lists {len(self.rows)} episodes, info.json says {self.info['total_episodes']}; "
                "the copy is not whole, copy the data set again."
            )
        if self.extra is not None and len(self.extra["episodes"]) != len(self.rows):
            raise ProjectError(
                f"{root / EXTRA} describes {len(self.extra['episodes'])} episodes, the data set has {len(self.rows)}: "
                "it was changed since; move the file away and import with the options under `foreign`."
            )
        self._cached: tuple[Path, int, Any] | None = None
        self._ranges: dict[Path, list[tuple[int, int]]] = {}

    def columns(self, row: dict[str, Any], names: list[str]) -> dict[str, Any]:
        """The columns `names` of one episode ordered by frame_index: arrays (T, …), pictures as a list of bytes.

        Raises a ProjectError where the rows are not frame_index 0 … length-1 of this episode, or a column is missing.
        """
        index, length = row["episode_index"], row["length"]
        path = self.root / self._place(row, "data").path(self.info["data_path"])
        pa, compute = pyarrow(""), pyarrow("compute")
        parts = []
        try:
            for group, (low, high) in enumerate(self._groups(path)):
                if low <= index <= high:
                    table = self._group(path, group)
                    parts.append(table.filter(compute.equal(table["episode_index"], index)))
            table = pa.concat_tables(parts).sort_by("frame_index") if parts else None
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from error
        found = [] if table is None else table["frame_index"].to_pylist()
        if table is None or found != list(range(length)):
            raise ProjectError(
                f"{path} has {len(found)} rows of episode {index}, meta/episodes says {length} frames from 0 on; "
                "copy the data set again."
            )
        missing = [name for name in names if name not in table.column_names]
        if missing:
            raise ProjectError(f"{path} has no column {missing} (it has {table.column_names}).")
        return {name: _values(pa, table[name].combine_chunks()) for name in names}

    def frames(self, row: dict[str, Any], camera: str) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB of one episode."""
        if self.info["features"][camera]["dtype"] == "image":
            return self._pictures(row, camera)
        times = np.asarray(self.columns(row, ["timestamp"])["timestamp"], np.float64)
        path = self.root / self._place(row, f"videos/{camera}").path(self.info["video_path"], camera)
        return read_video(path, row[f"videos/{camera}/from_timestamp"] + times, float(self.info["fps"]))

    def _pictures(self, row: dict[str, Any], camera: str) -> np.ndarray:
        where = f"{self.root}: episode {row['episode_index']}, {camera}"
        frames = []
        for step, picture in enumerate(self.columns(row, [camera])[camera]):
            data = picture.get("bytes") if isinstance(picture, dict) else None
            if data is None:
                raise ProjectError(
                    f"{where}: frame {step} is not in the Parquet file; embed the images and try again."
                )
            try:
                frames.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
            except (OSError, UnidentifiedImageError, SyntaxError) as error:
                raise ProjectError(
                    f"{where}: frame {step} is no readable image ({error}); copy it again."
                ) from error
        if len({frame.shape for frame in frames}) != 1:
            raise ProjectError(f"{where}: frames of several sizes; expected one size per episode.")
        return np.stack(frames)

    def _place(self, row: dict[str, Any], prefix: str) -> Place:
        try:
            return Place(row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"])
        except KeyError as error:
            raise ProjectError(
                f"{self.root}: meta/episodes has no column {error}; copy the data set again."
            ) from error

    def _groups(self, path: Path) -> list[tuple[int, int]]:
        """Lowest and highest episode_index of every row group of a data file."""
        if path not in self._ranges:
            file = pyarrow("parquet").ParquetFile(path)
            ranges = []
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=["episode_index"])["episode_index"].to_numpy()
                ranges.append((int(column.min()), int(column.max())) if len(column) else (0, -1))
            self._ranges[path] = ranges
        return self._ranges[path]

    def _group(self, path: Path, group: int) -> Any:
        """One row group; the last one is kept, because other writers put many episodes into one."""
        if self._cached is None or self._cached[:2] != (path, group):
            self._cached = (path, group, pyarrow("parquet").ParquetFile(path).read_row_group(group))
        return self._cached[2]

    def _episode_rows(self) -> list[dict[str, Any]]:
        pa, parquet = pyarrow(""), pyarrow("parquet")
        rows: list[dict[str, Any]] = []
        for path in sorted((self.root / "meta" / "episodes").glob("*/*.parquet")):
            try:
                names = parquet.read_schema(path).names
                wanted = [name for name in names if not name.startswith("stats/")]
                rows += parquet.ParquetFile(path).read(columns=wanted).to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from error
        lacking = [key for key in ("episode_index", "length") if rows and key not in rows[0]]
        if not rows or lacking:
            raise ProjectError(
                f"{self.root}: meta/episodes lists no episode, or lacks {lacking}; copy it again."
            )
        return sorted(rows, key=lambda row: row["episode_index"])

    def _read_tasks(self) -> dict[int, str]:
        """LeRobot writes the sentences as a pandas index, whose name depends on its version."""
        pa, path = pyarrow(""), self.root / TASKS
        try:
            table = pyarrow("parquet").ParquetFile(path).read()
            described = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get(
                "index_columns", []
            )
            names = [n for n in (*described, "task") if isinstance(n, str) and n in table.column_names]
            return dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
            raise _damaged(path, error) from error


def _values(pa: Any, column: Any) -> Any:
    kind = column.type
    if pa.types.is_struct(kind):
        return column.to_pylist()
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)


def _damaged(path: Path, error: Exception) -> ProjectError:
    reason = " ".join(str(error).split())[:200]
    return ProjectError(f"{path} is missing, truncated or damaged ({reason}); copy the data set again.")
