"""Owns the way in: a LeRobotDataset v3.x becomes a folder of the project's own HDF5 episodes.

In: a data set with meta/mobile_vla.json (it knows everything) or without (`ForeignOptions` say the rest). Out: one new
folder with <id>.h5, and `action_space.json` and split files where the data set carries them. Fingerprints are checked.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from src.core.errors import ProjectError
from src.core.files import atomic_folder, atomic_write_json
from src.data.actions import ActionSpace
from src.data.episode import Episode, write_episode
from src.data.layouts import BETWEEN, PROVENANCE
from src.data.lerobot.export import sha256
from src.data.lerobot.foreign import Facts, ForeignOptions, foreign_facts
from src.data.lerobot.layout import EXTRA, INFO, PROVENANCE_KEY
from src.data.lerobot.pace import Pace
from src.data.lerobot.reader import LeRobotFolder
from src.data.lerobot.source import ACTION_FILE, left_out
from src.data.manifest import recording_hash, table_hash

log = logging.getLogger(__name__)

RECORDED = ("scenario", "file_group", "length", "frame_shape", "recording")
"""What the data_hash of a split manifest covers (manifest.py)."""


def load(
    source: Path, to: Path, foreign: ForeignOptions, skip_bad: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Write the episodes of the LeRobot data set `source` into the new folder `to`.

    Args:
        foreign: facts that a data set of somebody else does not hold; refused for one of ours, which holds them.
        skip_bad: leave damaged episodes out, instead of stopping at the first.

    Returns:
        {"episodes", "frames", "skipped": [{"file", "reason"}], "psnr_db": what the export measured, or None}.
    """
    folder = LeRobotFolder(source)
    extra = folder.extra
    if extra is not None and foreign != ForeignOptions():
        raise ProjectError(
            f"foreign: {source / EXTRA} says all of it already; remove these options, or move that file away."
        )
    facts = foreign_facts(str(source), folder.info, foreign) if extra is None else _own_facts(source, extra)
    pace = Pace(folder, foreign.control_period)
    skipped: list[dict[str, str]] = []
    frames = 0
    with atomic_folder(to) as target:
        ids: set[str] = set()
        with Progress(disable=not progress) as bar:
            line = bar.add_task("reading LeRobot data set", total=len(folder.rows))
            for number, row in enumerate(folder.rows):
                where = source / f"episode {row['episode_index']}"
                try:
                    if extra is None:
                        episode = _foreign_episode(folder, facts, row, foreign)
                    else:
                        episode = _own_episode(folder, facts, row, extra["episodes"][number])
                    pace.check(row, where)
                    episode.validate(str(where))
                except ProjectError as error:
                    if not skip_bad:
                        raise
                    skipped.append(left_out(where, error))
                else:
                    _write(target, episode, ids)
                    frames += len(episode.actions)
                bar.advance(line)
        if not ids:
            raise ProjectError(f"source={source}: none of its {len(folder.rows)} episodes can be read.")
        pace.report()
        if extra is not None:
            _write_beside(target, extra, ids)
    quality = extra["video_psnr_db"] if extra is not None else None
    return {"episodes": len(ids), "frames": frames, "skipped": skipped, "psnr_db": quality}


def _own_facts(source: Path, extra: dict[str, Any]) -> Facts:
    try:
        names = tuple(extra["action_names"])
        return Facts(
            camera=extra["camera_key"],
            names=names,
            units=tuple(extra["action_units"]),
            entries=tuple(range(len(names))),
            scale=np.ones(len(names)),
            control_period=float(extra["control_period_s"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProjectError(f"{source / EXTRA} is not whole ({error!r}); copy the data set again.") from error


def _actions(folder: LeRobotFolder, facts: Facts, row: dict[str, Any]) -> np.ndarray:
    stored = np.asarray(folder.columns(row, ["action"])["action"]).reshape(row["length"], -1)
    if stored.shape[1] <= max(facts.entries):
        raise ProjectError(
            f"{folder.root}: episode {row['episode_index']} has {stored.shape[1]} action entries, info.json has more."
        )
    chosen = stored[:, list(facts.entries)]
    if (facts.scale == 1).all():
        return np.ascontiguousarray(chosen, np.float32)  # to the bit
    return (chosen.astype(np.float64) * facts.scale).astype(np.float32)


def _own_episode(folder: LeRobotFolder, facts: Facts, row: dict[str, Any], entry: dict[str, Any]) -> Episode:
    where = f"{folder.root}: episode {row['episode_index']} ({entry['id']})"
    columns = folder.extra["columns"] if folder.extra else {}
    actions, frames = _actions(folder, facts, row), folder.frames(row, facts.camera)
    for name, array in (("actions", actions), ("frames", frames)):
        wanted = entry[f"{name}_sha256"]
        if wanted is not None and sha256(array) != wanted:
            raise ProjectError(
                f"{where}: its {name} are not those that were written; copy the data set again."
            )
    attributes = dict(entry["attributes"])
    if entry["frames_sha256"] is None and folder.extra:
        attributes["lossy_video"] = f"h264 crf {folder.extra['video_crf']}"

    def optional(kind: str) -> np.ndarray | None:
        return folder.columns(row, [columns[kind]])[columns[kind]] if entry[f"has_{kind}"] else None

    return Episode(
        id=entry["id"],
        frames=frames,
        actions=actions,
        instructions=tuple(entry["instructions"]),
        action_names=facts.names,
        action_units=facts.units,
        control_period=facts.control_period,
        scenario=entry["scenario"],
        group=entry["group"],
        timestamps=optional("timestamps"),
        poses=optional("poses"),
        attributes=attributes,
    )


def _foreign_episode(
    folder: LeRobotFolder, facts: Facts, row: dict[str, Any], options: ForeignOptions
) -> Episode:
    index = row["episode_index"]
    tasks = sorted({int(task) for task in folder.columns(row, ["task_index"])["task_index"]})
    if len(tasks) != 1 or not str(folder.tasks.get(tasks[0], "")).strip():
        found = [folder.tasks.get(task) for task in tasks]
        raise ProjectError(
            f"{folder.root}: episode {index} has the tasks {found}, expected exactly one sentence per episode."
        )
    name = f"episode_{index:06d}"
    return Episode(
        id=name,
        frames=folder.frames(row, facts.camera),
        actions=_actions(folder, facts, row),
        instructions=(str(folder.tasks[tasks[0]]),),
        action_names=facts.names,
        action_units=facts.units,
        control_period=facts.control_period,
        scenario=options.scenario or f"task_{tasks[0]:03d}",
        group=name,
        attributes={"lerobot_episode_index": int(index), **_provenance(folder)},
    )


def _provenance(folder: LeRobotFolder) -> dict[str, str]:
    """Of one of our data sets whose meta/mobile_vla.json is gone: what its source only assumed, as attributes."""
    stored = folder.info.get(PROVENANCE_KEY, {})
    try:
        # The names of files are gone with that file, and what came from them with it.
        assumed = BETWEEN.join(stored.get("assumed", []))
    except (AttributeError, TypeError) as error:
        raise ProjectError(
            f"{folder.root / INFO}: {PROVENANCE_KEY} is {stored!r}, expected lists of words; copy the data set again."
        ) from error
    return {PROVENANCE["assumed"]: assumed} if assumed else {}


def _write(target: Path, episode: Episode, ids: set[str]) -> None:
    if episode.id in ids or Path(episode.id).name != episode.id or episode.id.startswith("."):
        raise ProjectError(f"episode id {episode.id!r} is taken or no file name; repair {EXTRA}.")
    write_episode(target / f"{episode.id}.h5", episode)
    ids.add(episode.id)


def _write_beside(target: Path, extra: dict[str, Any], ids: set[str]) -> None:
    """The action space and the splits, the latter with fingerprints of the new files."""
    if extra["action_space"] is not None:
        atomic_write_json(target / ACTION_FILE, ActionSpace.from_dict(extra["action_space"]).to_dict())
    if not extra["splits"]:
        return
    for name, stored in extra["splits"].items():
        if {row["id"] for row in stored["episodes"]} != ids:
            log.warning("%s is not restored: its episodes are not the ones that were converted", name)
            continue
        rows = []
        for row in stored["episodes"]:
            path = target / f"{row['id']}.h5"
            stat = path.stat()
            now = {"file": path.name, "recording": recording_hash(path)}
            rows.append({**row, **now, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns})
        facts = {row["id"]: [row[key] for key in RECORDED] for row in rows}
        atomic_write_json(target / name, {**stored, "data_hash": table_hash(facts), "episodes": rows})
