"""Owns looking at a data folder: which episodes are there, and whether they fit together and fit the action space.

In: a folder. Out: the opened episodes in a fixed order, or one sentence that says what to repair.
"""

import logging
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.episode import SUFFIXES, EpisodeFile, open_episode
from src.data.layouts import LabOptions
from src.data.unwritten import require_written

log = logging.getLogger(__name__)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NEVER_HDF5 = {".json", ".html", ".md", ".txt", ".csv", ".yaml", ".png", ".jpg", ".mp4"}
"""Not opened to look for the signature: thousands of pictures beside the episodes would cost 20 us each."""


def find_episodes(root: Path, quiet: bool = False) -> list[Path]:
    """Every HDF5 file below `root`, sorted: the one definition of what a data folder holds.

    Names end in .h5 or .hdf5, in small letters or capitals. Hidden files and folders (caches, unfinished files) are
    left out. Links to files and folders are followed; what is reached twice counts once, under its own place before
    that of a link, and the log says so. It also says how many files of other names begin as HDF5;
    `quiet` leaves both out of the log.

    Raises:
        ProjectError: `root` is no folder, a folder below it cannot be listed, or there is no episode.
    """
    if not root.is_dir():
        kind = "is a file" if root.exists() else "does not exist"
        raise ProjectError(f"data.root={root} {kind}; expected a folder of HDF5 episodes, check the path.")
    found, again, others = _walk(root)
    for paths, meaning in (
        (again, "reached twice through links and counted once"),
        (
            others,
            f"of other names begin as HDF5 and are not read, because none ends in {' or '.join(SUFFIXES)}",
        ),
    ):
        if paths and not quiet:
            log.warning("%d files or folders in %s %s, e.g. %s", len(paths), root, meaning, min(paths))
    if not found:
        more = f"; {len(others)} files of other names begin as HDF5, e.g. {min(others)}" if others else ""
        raise ProjectError(
            f"data.root={root} holds no episode ({' or '.join('*' + s for s in SUFFIXES)}){more}; "
            "copy the data there or set data.root to the folder that has it."
        )
    return sorted(found)


def _walk(root: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """(episodes, files and folders that are one of those again, files of other names that begin as HDF5)."""
    found: list[Path] = []
    again: list[Path] = []
    others: list[Path] = []
    seen: set[str] = set()
    links: list[Path] = []
    folders = [root]
    while folders or links:
        # All that lies in its own place comes first, so that which of two names counts does not depend on the order.
        # Links have their turn one by one: what one leads to may hold the place that the next one points to.
        path = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(path)
        linked = path.is_symlink() and path != root
        try:
            is_folder = path.is_dir()
            if linked and not is_folder:
                _sort_in(path, real, seen, found, again, others)
            elif real in seen:
                again.append(path)
            else:
                seen.add(real)
                with os.scandir(path) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
                for entry in listed:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        links.append(path / entry.name)
                    elif entry.is_dir():
                        folders.append(path / entry.name)
                    else:
                        place = os.path.join(real, entry.name)
                        _sort_in(path / entry.name, place, seen, found, again, others)
        except OSError as error:
            raise ProjectError(
                f"{path} in data.root={root} cannot be listed ({error.strerror or error}), so episodes in it would be "
                "missed; change its permissions or move it away."
            ) from error
    return found, again, others


def _sort_in(
    path: Path, real: str, seen: set[str], found: list[Path], again: list[Path], others: list[Path]
) -> None:
    """Put a file (or a link that leads to none) into the list it belongs to."""
    if path.suffix.lower() in SUFFIXES:
        (again if real in seen else found).append(path)
        seen.add(real)
    elif path.suffix.lower() not in _NEVER_HDF5 and _begins_as_hdf5(path):
        others.append(path)


def _begins_as_hdf5(path: Path) -> bool:
    try:
        if not path.is_file():  # a pipe would wait for ever
            return False
        with path.open("rb") as stream:
            return stream.read(len(_SIGNATURE)) == _SIGNATURE
    except OSError:  # not an episode by its name, so nobody asked for it
        return False


def scan(
    root: Path, action: ActionSpace, lab: LabOptions | None = None, allow_mixed_sizes: bool = False
) -> list[EpisodeFile]:
    """Open every episode below `root`, sorted by id, check that they form one data set, and log what to know.

    Metadata only, about 3 ms per file. All files are tried, so one message counts every file that cannot be used.
    """
    episodes = opened(root, action, lab, allow_mixed_sizes)
    tell(episodes)
    return episodes


def opened(
    root: Path, action: ActionSpace, lab: LabOptions | None = None, allow_mixed_sizes: bool = False
) -> list[EpisodeFile]:
    """`scan` without its log lines."""
    episodes: list[EpisodeFile] = []
    faults: list[str] = []
    for path in find_episodes(root):
        try:
            episode = open_episode(path, lab)
            check_action_space(episode, action)
            require_written(path)
        except ProjectError as error:
            faults.append(str(error))
        else:
            episodes.append(episode)
    if faults:
        total = len(faults) + len(episodes)
        more = (
            f"{len(faults)} of {total} files in {root} cannot be used, the first: " if len(faults) > 1 else ""
        )
        raise ProjectError(
            f"{more}{faults[0]} Or leave such files out with data.on_bad_files=skip; `python -m src.check_data "
            f"data=mobile_vla data.root={root}` names all of them."
        )
    episodes.sort(key=lambda episode: episode.id)
    for one, two in zip(episodes, episodes[1:], strict=False):
        if one.id == two.id:
            raise ProjectError(
                f"{one.path} and {two.path} are both episode {one.id!r}; keep one of them, or give one another id."
            )
    if not allow_mixed_sizes:
        _check_sizes(episodes)
    return episodes


def tell(episodes: Sequence[EpisodeFile]) -> None:
    """Log what came from file names, and the readers' remarks, counted."""
    named = Counter(name for episode in episodes for name in episode.meta.from_name)
    if named:
        fields = ", ".join(f"{name} ({count})" for name, count in sorted(named.items()))
        log.info("taken from the file name, not from the file: %s", fields)
    remarks = Counter(remark for episode in episodes for remark in episode.meta.remarks)
    for remark, count in sorted(remarks.items()):
        log.info("%d file%s: %s", count, "" if count == 1 else "s", remark)


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
