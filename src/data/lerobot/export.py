"""Owns the way out: a folder of episodes becomes a LeRobotDataset v3.0.

In: a folder of HDF5 episodes of any known layout. Out: one new folder, complete or not there. What LeRobot has no
place for goes to meta/mobile_vla.json (layout.py). With videos, every written file is decoded again and compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from src.core.errors import ProjectError
from src.core.files import atomic_folder, atomic_write_json
from src.data.actions import ActionSpace
from src.data.episode import Episode, EpisodeFile
from src.data.instruction import InstructionSource
from src.data.layouts import PROVENANCE, LabOptions
from src.data.lerobot.layout import (
    CAMERA,
    CHUNKS_SIZE,
    DATA_PATH,
    EXTRA,
    FORMAT,
    INFO,
    MB,
    POSE,
    PROVENANCE_KEY,
    STATS,
    TIMESTAMP,
    VERSION,
    VIDEO_PATH,
    Place,
    features,
    fps_of,
    frame_rate,
)
from src.data.lerobot.source import (
    alike,
    check_together,
    in_split_order,
    left_out,
    open_all,
    ranges,
    stored_action,
    stored_splits,
)
from src.data.lerobot.stats import column_stats, frame_stats, histogram
from src.data.lerobot.tables import DataFiles, write_episodes, write_tasks
from src.data.lerobot.video import VideoWriter, psnr, read_video, video_info


@dataclass(frozen=True)
class ExportOptions:
    """How a LeRobot data set is written.

    Args:
        frames: "images" (PNG inside Parquet, exact) or "video" (H.264, lossy, a tenth of the size and less).
        crf: quality of the video, 0 to 51, lower is better.
        camera_key: the feature's name; LeRobot takes observation.images.* for cameras.
        data_file_mb, video_file_mb: size at which a Parquet or mp4 file is full, in MB.
    """

    frames: str = "images"
    crf: int = 23
    camera_key: str = CAMERA
    data_file_mb: int = 100
    video_file_mb: int = 200

    def __post_init__(self) -> None:
        if self.frames not in ("images", "video"):
            raise ProjectError(f"export_options.frames is {self.frames!r}; expected images or video.")
        if not 0 <= self.crf <= 51:
            raise ProjectError(f"export_options.crf is {self.crf}; expected 0 (best) to 51.")
        if not self.camera_key.startswith("observation.image") or "/" in self.camera_key:
            raise ProjectError(
                f"export_options.camera_key is {self.camera_key!r}; expected a name such as {CAMERA}, without '/'."
            )
        if min(self.data_file_mb, self.video_file_mb) < 1:
            raise ProjectError(
                "export_options.data_file_mb and video_file_mb are sizes in MB; expected 1 or more."
            )


@dataclass
class _Written:
    """One episode in the new data set: its row of meta/episodes, its entry of mobile_vla.json, its pixels."""

    row: dict[str, Any]
    entry: dict[str, Any]
    counts: np.ndarray
    columns: dict[str, np.ndarray]


def export(
    source: Path,
    to: Path,
    options: ExportOptions,
    action: ActionSpace | None = None,
    lab: LabOptions | None = None,
    instruction: InstructionSource | None = None,
    skip_bad: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the episodes below `source` as a LeRobot data set into the new folder `to`.

    Args:
        action: the action space, whose limits and classes are kept; None takes `action_space.json` of the source
            folder where there is one.
        lab: how to read the lab's files.
        instruction: where the sentences come from; None takes those of the files.
        skip_bad: leave files that are unreadable, have no sentence, or another frame size, period or axes than most
            out and list them in meta/mobile_vla.json, instead of stopping at the first.

    Returns:
        {"episodes", "frames", "skipped": [{"file", "reason"}], "psnr_db": {"mean", "min"} or None}.
    """
    skipped: list[dict[str, str]] = []
    files = alike(
        open_all(source, lab, instruction, skipped if skip_bad else None), skipped if skip_bad else None
    )
    action = action or stored_action(source)
    check_together(files, action, even_sides=options.frames == "video")
    splits = stored_splits(source)
    files, named = in_split_order(files, splits)
    with atomic_folder(to) as root:
        job = _Export(root, files, options)
        try:
            with Progress(disable=not progress) as bar:
                line = bar.add_task("writing LeRobot data set", total=len(files))
                for file in files:
                    try:
                        episode = file.load()  # whole, before a byte of it is written: it may be damaged
                    except ProjectError as error:
                        if not skip_bad:
                            raise
                        skipped.append(left_out(file.path, error))
                    else:
                        job.add(episode, file.path)
                    bar.advance(line)
                if not job.written:
                    raise ProjectError(f"source={source}: none of its {len(files)} episodes can be read.")
                quality = job.finish(bar)
        finally:
            job.release()
        _write_meta(root, job, options, action, splits, named, skipped, quality)
    frames = sum(written.row["length"] for written in job.written)
    return {"episodes": len(job.written), "frames": frames, "skipped": skipped, "psnr_db": quality}


class _Export:
    """The tables and videos while they grow."""

    def __init__(self, root: Path, files: Sequence[EpisodeFile], options: ExportOptions) -> None:
        first = files[0]
        self.root, self.options = root, options
        self.height, self.width = first.frame_shape[:2]
        self.fps, self.rate = fps_of(first.control_period), frame_rate(first.control_period)
        self.is_video = options.frames == "video"
        info = video_info(self.height, self.width, self.fps) if self.is_video else None
        self.features = features(
            options.camera_key, first.frame_shape, first.action_names, info,
            any(file.poses is not None for file in files), any(file.timestamps is not None for file in files),
        )  # fmt: skip
        camera = None if self.is_video else options.camera_key
        self.data = DataFiles(root, self.features, camera, options.data_file_mb)
        self.written: list[_Written] = []
        self.actions: list[np.ndarray] = []
        self.sources: list[EpisodeFile] = []
        self.tasks: dict[str, int] = {}
        self._files = {file.path: file for file in files}
        self._video: VideoWriter | None = None
        self._video_place = Place()

    def add(self, episode: Episode, path: Path) -> None:
        """Append one episode to every table and to the video."""
        index, steps = len(self.written), len(episode.actions)
        text = episode.instructions[0]
        task = self.tasks.setdefault(text, len(self.tasks))
        columns = self.data.append(episode, index, task, float(self.fps))
        counts = histogram(episode.frames)
        key = self.options.camera_key
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [text],
            "length": steps,
            "data/chunk_index": self.data.place.chunk_index,
            "data/file_index": self.data.place.file_index,
            "dataset_from_index": self.data.rows - steps,
            "dataset_to_index": self.data.rows,
        }
        if self.is_video:
            row.update(self._append_video(episode.frames))
        stats = {
            name: column_stats(values) for name, values in {"action": episode.actions, **columns}.items()
        }
        stats[key] = frame_stats(counts, steps)
        row.update({f"stats/{name}/{stat}": v for name, s in stats.items() for stat, v in s.items()})
        entry = {
            "episode_index": index,
            "id": episode.id,
            "scenario": episode.scenario,
            "group": episode.group,
            "instructions": list(episode.instructions),
            "attributes": episode.attributes,
            "has_poses": episode.poses is not None,
            "has_timestamps": episode.timestamps is not None,
            "actions_sha256": sha256(episode.actions),
            "frames_sha256": None if self.is_video else sha256(episode.frames),
        }
        self.written.append(_Written(row, entry, counts, columns))
        self.actions.append(episode.actions)
        self.sources.append(self._files[path])

    def finish(self, bar: Progress) -> dict[str, float] | None:
        """Close all files; with videos, decode each episode from them and return {"mean", "min"} of its PSNR in dB."""
        self.data.close()
        if self._video is None:
            return None
        self._video.close()
        line = bar.add_task("comparing the videos", total=len(self.written))
        values = []
        for written, source in zip(self.written, self.sources, strict=True):
            key, row = self.options.camera_key, written.row
            place = Place(row[f"videos/{key}/chunk_index"], row[f"videos/{key}/file_index"])
            times = row[f"videos/{key}/from_timestamp"] + written.columns["timestamp"].astype(np.float64)
            shown = read_video(self.root / place.path(VIDEO_PATH, key), times, float(self.rate))
            values.append(psnr(source.frames(), shown))
            bar.advance(line)
        finite = [value for value in values if math.isfinite(value)] or [99.0]
        return {"mean": round(float(np.mean(finite)), 2), "min": round(min(finite), 2)}

    def release(self) -> None:
        """Let go of the open files, whether they are finished or not; harmless after `finish`."""
        self.data.close()
        if self._video is not None:
            self._video.release()

    def _append_video(self, frames: np.ndarray) -> dict[str, Any]:
        key = self.options.camera_key
        if self._video is not None and self._video.bytes >= self.options.video_file_mb * MB:
            self._video.close()
            self._video, self._video_place = None, self._video_place.next()
        if self._video is None:
            path = self.root / self._video_place.path(VIDEO_PATH, key)
            self._video = VideoWriter(path, self.rate, self.height, self.width, self.options.crf)
        begin = self._video.frames
        self._video.append(frames)
        return {
            f"videos/{key}/chunk_index": self._video_place.chunk_index,
            f"videos/{key}/file_index": self._video_place.file_index,
            f"videos/{key}/from_timestamp": float(begin / self.rate),
            f"videos/{key}/to_timestamp": float(self._video.frames / self.rate),
        }


def sha256(array: np.ndarray) -> str:
    """Fingerprint of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _write_meta(
    root: Path,
    job: _Export,
    options: ExportOptions,
    action: ActionSpace | None,
    splits: dict[str, Any],
    named: dict[str, str],
    skipped: list[dict[str, str]],
    quality: dict[str, float] | None,
) -> None:
    """The files below meta/, the last things written."""
    first, total = job.sources[0], job.data.rows
    write_tasks(root, list(job.tasks))
    write_episodes(root, [written.row for written in job.written])
    names = list(job.written[0].columns)
    stats = {name: column_stats(np.concatenate([w.columns[name] for w in job.written])) for name in names}
    stats["action"] = column_stats(np.concatenate(job.actions))
    counts = np.sum([written.counts for written in job.written], axis=0)
    stats[options.camera_key] = frame_stats(counts, total)
    atomic_write_json(root / STATS, stats)
    atomic_write_json(
        root / EXTRA,
        {
            "format": FORMAT,
            "control_period_s": first.control_period,
            "camera_key": options.camera_key,
            "frames": options.frames,
            "video_crf": options.crf if job.is_video else None,
            "video_psnr_db": quality,
            "action_names": list(first.action_names),
            "action_units": list(first.action_units),
            "action_space": None if action is None else action.to_dict(),
            "columns": {"poses": POSE, "timestamps": TIMESTAMP},
            "episodes": [written.entry for written in job.written],
            "splits": splits,
            "skipped": skipped,
        },
    )
    atomic_write_json(
        root / INFO,
        {
            "codebase_version": VERSION,
            "robot_type": None,
            "total_episodes": len(job.written),
            "total_frames": total,
            "total_tasks": len(job.tasks),
            "chunks_size": CHUNKS_SIZE,
            "data_files_size_in_mb": options.data_file_mb,
            "video_files_size_in_mb": options.video_file_mb,
            "fps": job.fps,
            "splits": ranges([named.get(written.entry["id"], "train") for written in job.written]),
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if job.is_video else None,
            "features": job.features,
            PROVENANCE_KEY: {
                name: sorted({value for file in job.sources for value in getattr(file.meta, name)})
                for name in PROVENANCE
            },
        },
    )
