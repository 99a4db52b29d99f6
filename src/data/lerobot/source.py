"""Owns looking at the folder to be converted: which episodes, whether they fit one data set, what lies beside them.

In: a folder of HDF5 episodes. Out: opened episodes in the order of the new data set, its action space, its splits; or
one sentence that names the file at fault.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import EpisodeFile, open_episode
from src.data.instruction import InstructionSource
from src.data.layouts import LabOptions
from src.data.manifest import FORMAT as SPLIT_FORMAT
from src.data.scan import check_action_space, find_episodes
from src.data.split_rules import SPLITS

log = logging.getLogger(__name__)

ACTION_FILE = "action_space.json"
"""In a folder of episodes: the axes' limits and classes, which the episodes themselves do not hold."""
_SPLITS = "mobile-vla-split/"


def open_all(
    source: Path,
    lab: LabOptions | None,
    instruction: InstructionSource | None,
    skipped: list[dict[str, str]] | None,
) -> list[EpisodeFile]:
    """The readable episodes with the sentences of `instruction` (None: their own), sorted by id; those that cannot be
    read or have no sentence raise, or go to `skipped` where that is a list."""
    try:
        paths = find_episodes(source)
    except ProjectError as error:
        raise ProjectError(str(error).replace("data.root", "source")) from error
    files: list[EpisodeFile] = []
    for path in paths:
        try:
            files.append(_worded(open_episode(path, lab), instruction))
        except ProjectError as error:
            if skipped is None:
                raise ProjectError(f"{error} Or leave such files out with on_bad_files=skip.") from error
            skipped.append(left_out(path, error))
    if not files:
        raise ProjectError(
            f"source={source}: none of its {len(paths)} files can be read; the first: {skipped}"
        )
    return sorted(files, key=lambda file: file.id)


def _worded(file: EpisodeFile, instruction: InstructionSource | None) -> EpisodeFile:
    """A LeRobot episode has a task, which is a sentence."""
    if instruction is not None:
        try:
            return file.retold(instruction.wordings(file))
        except ProjectError as error:
            said = str(error).replace("data.instruction", "instruction")
            raise ProjectError(said.replace("data/instruction=", "data/instruction@instruction=")) from error
    if not file.instructions:
        raise ProjectError(
            f"{file.path} (scenario {file.scenario!r}) holds no instruction, which LeRobot needs as its task; choose a "
            "map of sentences, e.g. data/instruction@instruction=lab_en."
        )
    return file


def left_out(path: Path, error: ProjectError) -> dict[str, str]:
    """The record of a file that is not converted, and a line in the log."""
    log.warning("left out: %s", error)
    return {"file": path.name, "reason": str(error)}


def alike(files: list[EpisodeFile], skipped: list[dict[str, str]] | None) -> list[EpisodeFile]:
    """Those of `files` that make one LeRobot data set, which has one frame size, one fps and one set of axes.

    The others, and second files of one episode, raise or go to `skipped` where that is a list. Of each fact that value
    stays which most files have (of equally many, the first by id), as data.on_bad_files=skip decides for a training.
    """
    kept: dict[str, EpisodeFile] = {}
    for file in files:
        if file.id not in kept:
            kept[file.id] = file
            continue
        _leave_out(
            file,
            f"{kept[file.id].path} and {file.path} are both episode {file.id!r}; keep one of them.",
            skipped,
        )
    left = list(kept.values())
    for key in ("frame_shape", "action_names", "action_units", "control_period"):
        values = Counter(getattr(file, key) for file in left)
        usual = values.most_common(1)[0][0]
        if len(values) == 1:
            continue
        example = next(file for file in left if getattr(file, key) == usual)
        for file in left:
            if getattr(file, key) != usual:
                _leave_out(
                    file, f"{file.path}: {key} is {getattr(file, key)}, but {example.path} has {usual}; a LeRobot "
                    "data set has one for all, convert them separately.", skipped,
                )  # fmt: skip
        left = [file for file in left if getattr(file, key) == usual]
    return left


def _leave_out(file: EpisodeFile, reason: str, skipped: list[dict[str, str]] | None) -> None:
    if skipped is None:
        raise ProjectError(f"{reason} Or leave such files out with on_bad_files=skip.")
    skipped.append(left_out(file.path, ProjectError(reason)))


def check_together(files: list[EpisodeFile], action: ActionSpace | None, even_sides: bool) -> None:
    """Raise a ProjectError unless these files, which are alike, fit the action space and can be a video."""
    first = files[0]
    if action is not None:
        check_action_space(first, action)
    if even_sides and (first.frame_shape[0] % 2 or first.frame_shape[1] % 2):
        raise ProjectError(
            f"{first.path}: frames of {first.frame_shape[0]}x{first.frame_shape[1]} px, but a video needs "
            "even sides (yuv420p); set export_options.frames=images."
        )


def stored_action(source: Path) -> ActionSpace | None:
    path = source / ACTION_FILE
    if not path.exists():
        return None
    try:
        return ActionSpace.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ProjectError(
            f"{path} is no readable action space ({error}); delete it or set `action`."
        ) from error


def stored_splits(source: Path) -> dict[str, Any]:
    """The split manifests of the folder (manifest.py) by file name, as they are."""
    found: dict[str, Any] = {}
    for path in sorted(source.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(content, dict) and str(content.get("format", "")).startswith(_SPLITS)):
                continue
            if content["format"] != SPLIT_FORMAT:
                raise ValueError(f"format {content['format']!r}, expected {SPLIT_FORMAT!r}")
            {row["id"]: row["part"] for row in content["episodes"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProjectError(f"{path} cannot be read ({error}); restore or delete it.") from error
        found[path.name] = content
    return found


def in_split_order(
    files: list[EpisodeFile], splits: dict[str, Any]
) -> tuple[list[EpisodeFile], dict[str, str]]:
    """With exactly one split into train, val and test: those behind one another, because info.json names ranges.

    Returns the files in order, and episode id -> split, empty where info.json has to call all of them train.
    """
    if len(splits) != 1:
        if splits:
            log.warning("%d splits: info.json cannot name them and calls all episodes train", len(splits))
        return files, {}
    name, content = next(iter(splits.items()))
    named = {row["id"]: row["part"] for row in content["episodes"]}
    if not set(named.values()) <= set(SPLITS):
        log.warning("%s has other parts than %s: info.json calls all episodes train", name, list(SPLITS))
        return files, {}
    missing = [file.id for file in files if file.id not in named]
    if missing:
        raise ProjectError(
            f"{name} does not know episode {missing[0]!r}; the data changed since, delete that file."
        )
    return sorted(files, key=lambda file: (SPLITS.index(named[file.id]), file.id)), named


def ranges(names: list[str]) -> dict[str, str]:
    """["train", "train", "val"] -> {"train": "0:2", "val": "2:3"}."""
    return {
        name: f"{names.index(name)}:{names.index(name) + names.count(name)}" for name in dict.fromkeys(names)
    }
