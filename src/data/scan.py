"""Owns looking at a data folder: which episodes are there, and whether they fit together and fit the action space.

In: a folder. Out: the opened episodes in a fixed order, or one sentence that says what to repair.
"""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import SUFFIXES, EpisodeFile, open_episode
from src.data.layouts import LabOptions

log = logging.getLogger(__name__)


def find_episodes(root: Path) -> list[Path]:
    """Every HDF5 file below `root`, sorted; hidden files and folders (caches, unfinished files) are left out."""
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise ProjectError(f"data.root={root} {kind}; expected a folder of HDF5 episodes, check the path.")
    found = sorted(path for suffix in SUFFIXES for path in root.rglob(f"*{suffix}"))
    found = [path for path in found if not any(p.startswith(".") for p in path.relative_to(root).parts)]
    if not found:
        raise ProjectError(
            f"data.root={root} holds no episode ({' or '.join('*' + s for s in SUFFIXES)}); "
            "copy the data there or set data.root to the folder that has it."
        )
    return found


def scan(
    root: Path, action: ActionSpace, lab: LabOptions | None = None, allow_mixed_sizes: bool = False
) -> list[EpisodeFile]:
    """Open every episode below `root`, sorted by id, and check that they form one data set.

    Metadata only, about 1 ms per file. All files are tried, so one message counts every file that cannot be used.
    """
    episodes: list[EpisodeFile] = []
    faults: list[str] = []
    for path in find_episodes(root):
        try:
            episode = open_episode(path, lab)
            check_action_space(episode, action)
        except ProjectError as error:
            faults.append(str(error))
        else:
            episodes.append(episode)
    if faults:
        total = len(faults) + len(episodes)
        more = (
            f"{len(faults)} of {total} files in {root} cannot be used, the first: " if len(faults) > 1 else ""
        )
        raise ProjectError(more + faults[0])
    episodes.sort(key=lambda episode: episode.id)
    for one, two in zip(episodes, episodes[1:], strict=False):
        if one.id == two.id:
            raise ProjectError(
                f"{one.path} and {two.path} are both episode {one.id!r}; keep one of them, or give one another id."
            )
    if not allow_mixed_sizes:
        _check_sizes(episodes)
    named = Counter(name for episode in episodes for name in episode.meta.from_name)
    if named:
        fields = ", ".join(f"{name} ({count})" for name, count in sorted(named.items()))
        log.info("taken from the file name, not from the file: %s", fields)
    remarks = Counter(remark for episode in episodes for remark in episode.meta.remarks)
    for remark, count in sorted(remarks.items()):
        log.info("%d file%s: %s", count, "" if count == 1 else "s", remark)
    return episodes


def check_action_space(episode: EpisodeFile, action: ActionSpace) -> None:
    """Raise a ProjectError unless the episode's axes, units and period are those of the action space."""
    for key, found, expected in (
        ("axes", episode.action_names, action.names),
        ("units", episode.action_units, action.units),
    ):
        if tuple(found) != tuple(expected):
            raise ProjectError(
                f"{episode.path}: its {len(found)} action {key} are {list(found)}, data.action has "
                f"{list(expected)}; choose the action space of this data, e.g. data/action=omni3d."
            )
    if not math.isclose(episode.control_period, action.control_period, rel_tol=1e-3):
        raise ProjectError(
            f"{episode.path}: its control period is {episode.control_period:g} s, data.action.control_period is "
            f"{action.control_period:g} s; set the key to the value of the data."
        )


def _check_sizes(episodes: Sequence[EpisodeFile]) -> None:
    sizes = Counter(episode.frame_shape[:2] for episode in episodes)
    if len(sizes) < 2:
        return
    usual = sizes.most_common(1)[0][0]
    one = next(episode for episode in episodes if episode.frame_shape[:2] == usual)
    two = next(episode for episode in episodes if episode.frame_shape[:2] != usual)
    raise ProjectError(
        f"{two.path} has frames of {_size(two)} px, but {one.path} and {sizes[usual] - 1} others have {_size(one)} px "
        f"(height x width; {len(episodes) - sizes[usual]} files differ); move the odd ones away, or set "
        "data.allow_mixed_sizes=true to squeeze all of them to data.image_size."
    )


def _size(episode: EpisodeFile) -> str:
    return f"{episode.frame_shape[0]}x{episode.frame_shape[1]}"
