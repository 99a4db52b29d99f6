"""Owns the Parquet tables of a data set: rows of frames, of episodes, of tasks, written in LeRobot's column types.

In: episodes one by one. Out: data/chunk-…/file-….parquet while they come, then meta/episodes and meta/tasks.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from src.data.episode import Episode
from src.data.lerobot.layout import (
    DATA_PATH,
    EPISODES_PATH,
    MB,
    POSE,
    TASKS,
    TIMESTAMP,
    Place,
    pyarrow,
)

PNG_LEVEL = 1
"""zlib level of the images: on noisy camera frames level 6 is three times slower for a few percent less."""


class DataFiles:
    """Appends episodes to the frame tables; a file that has reached its size is followed by the next.

    Args:
        root: the data set's folder.
        features: as in info.json; decides the columns and their types.
        camera: the key of the images, None where they are in a video.
        size_mb: size at which a file is full, in MB (2^20 bytes).
    """

    def __init__(self, root: Path, features: dict[str, Any], camera: str | None, size_mb: int) -> None:
        self.root, self.camera, self.limit = root, camera, size_mb * MB
        self.schema = _schema(features, camera)
        self.place = Place()
        self.rows = 0
        self._writer: Any = None
        self._sink: Any = None

    def append(self, episode: Episode, index: int, task: int, fps: float) -> dict[str, np.ndarray]:
        """Write the rows of episode number `index`; returns the index columns, each (T,)."""
        pa, parquet = pyarrow(""), pyarrow("parquet")
        steps = np.arange(len(episode.actions))
        columns: dict[str, np.ndarray] = {
            "timestamp": (steps / fps).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(steps), index),
            "index": self.rows + steps,
            "task_index": np.full(len(steps), task),
        }
        arrays = {**columns, "action": episode.actions}
        # An episode without these among others that have them: NaN, and meta/mobile_vla.json says it has none.
        arrays[POSE] = np.full((len(steps), 3), np.nan) if episode.poses is None else episode.poses
        arrays[TIMESTAMP] = np.full(len(steps), np.nan) if episode.timestamps is None else episode.timestamps
        table = []
        for field in self.schema:
            if field.name == self.camera:
                pictures = [{"bytes": png(frame), "path": None} for frame in episode.frames]
                table.append(pa.array(pictures, type=field.type))
            else:
                table.append(_column(pa, np.asarray(arrays[field.name]), field.type))
        if self._writer is not None and self._sink.tell() >= self.limit:
            self.close()
            self.place = self.place.next()
        if self._writer is None:
            path = self.root / self.place.path(DATA_PATH)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._sink = path.open("wb")
            self._writer = parquet.ParquetWriter(self._sink, self.schema, compression="snappy")
        # One row group per episode, so that a reader gets one episode without decoding the others.
        self._writer.write_table(pa.Table.from_arrays(table, schema=self.schema))
        self.rows += len(steps)
        return columns

    def close(self) -> None:
        """Finish the file being written."""
        if self._writer is not None:
            self._writer.close()
            self._sink.close()
            self._writer = None


def png(frame: np.ndarray) -> bytes:
    """One frame (H, W, 3) uint8 as PNG, which loses nothing."""
    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def write_episodes(root: Path, rows: list[dict[str, Any]]) -> None:
    """meta/episodes: `rows` as they are, with the columns that say which file they are in."""
    pa, parquet = pyarrow(""), pyarrow("parquet")
    place = Place()
    here = {"meta/episodes/chunk_index": place.chunk_index, "meta/episodes/file_index": place.file_index}
    path = root / place.path(EPISODES_PATH)
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist([{**row, **here} for row in rows]), path)


def write_tasks(root: Path, tasks: list[str]) -> None:
    """meta/tasks.parquet: as pandas writes a frame with the sentences as index, which is what LeRobot reads."""
    pa, parquet = pyarrow(""), pyarrow("parquet")
    (root / TASKS).parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())}
    )
    names = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    columns = [
        {"name": n, "field_name": n, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for n, kind, dtype in names
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / TASKS)


def _schema(features: dict[str, Any], camera: str | None) -> Any:
    pa = pyarrow("")
    kinds = {"float32": pa.float32(), "float64": pa.float64(), "int64": pa.int64()}
    fields = []
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        if name == camera:
            kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        else:
            kind, width = kinds[feature["dtype"]], feature["shape"][0]
            # LeRobot takes shape (1,) for a scalar column, any other for a list of fixed length.
            kind = kind if width == 1 else pa.list_(kind, width)
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _column(pa: Any, values: np.ndarray, kind: Any) -> Any:
    if pa.types.is_fixed_size_list(kind):
        flat = pa.array(np.ascontiguousarray(values).ravel(), type=kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
    return pa.array(values.reshape(len(values)), type=kind)
