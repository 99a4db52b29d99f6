"""Owns a folder of demonstrations by BabyAI's bot, in the project's own format.

In: levels, how many rooms of each, the first seed. Out: one HDF5 episode per room and, last of all, `dataset.json`,
which names what was left out and why. A folder without it is unfinished; calling again keeps what is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from src.core.errors import ProjectError
from src.core.files import atomic_write_json, file_sha256
from src.data.episode import Episode, open_episode, write_episode
from src.external.levels import (
    AXES,
    COMMANDS,
    PERIOD,
    UNITS,
    VALIDATION_SEEDS,
    VIEW,
    Bot,
    Room,
    check_levels,
    require_minigrid,
)

MARKER, STARTED = "dataset.json", "collecting.json"
FORMAT = "mobile-vla-babyai/1"
_MOVES = ("forward", "rotate_left", "rotate_right")
_NOISE_STREAM = 7919  # keeps the pushes apart from the layouts, which use the bare seed


@dataclass(frozen=True)
class Settings:
    """What the content of a data set depends on; equal settings give equal bytes."""

    levels: str
    episodes: int
    first_seed: int
    image_size: int
    noise: float
    minigrid: str

    def __post_init__(self) -> None:
        check_levels("data.source.levels", self.names)
        if not self.episodes >= 1 or not 0 <= self.first_seed <= VALIDATION_SEEDS - self.episodes:
            raise ProjectError(
                f"data.source: found rooms of the seeds {self.first_seed} to {self.first_seed + self.episodes - 1}, "
                f"expected at least one room and seeds from 0 to {VALIDATION_SEEDS - 1}, because later ones are kept "
                "for the evaluation; change first_seed or episodes."
            )
        if self.image_size < VIEW or self.image_size % VIEW:
            raise ProjectError(
                f"data.source.image_size: found {self.image_size}, expected a multiple of {VIEW}, the cells in view; "
                f"choose {max(1, round(self.image_size / VIEW)) * VIEW}."
            )
        if not 0 <= self.noise < 1:
            raise ProjectError(f"data.source.noise: found {self.noise}, expected 0 up to 1; 0.1 is usual.")

    @property
    def names(self) -> list[str]:
        """The levels one by one."""
        return self.levels.split("+")

    @property
    def digest(self) -> str:
        """16 hex digits that name these settings, the number of episodes left out: more of the same is the same."""
        facts = {key: value for key, value in asdict(self).items() if key not in ("episodes", "levels")}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def collect(
    out: Path | str,
    levels: str,
    episodes: int = 1000,
    first_seed: int = 0,
    image_size: int = 56,
    noise: float = 0.1,
    progress: bool = True,
) -> dict[str, Any]:
    """Record the bot in `episodes` rooms of each level into the folder `out`; the content of its `dataset.json`.

    Rooms where the bot raises, moves things about or runs out of time are left out and counted under `left_out`.

    Args:
        out: folder; empty, or with a data set of the same settings, finished or not.
        levels: names of `LEVELS`, joined by `+`, e.g. GoToObj+GoToLocal: such a string is a part of a folder's name.
        episodes: rooms per level, of the seeds from `first_seed` on.
        first_seed: 0 to 899,999; later seeds belong to the evaluation.
        image_size: side of the frames in px, a multiple of 7.
        noise: share of steps at which another move than the advised one is carried out. The record keeps the advice,
            so the data show how to come back.
        progress: show a progress bar.
    """
    version = require_minigrid("data.source")
    settings = Settings(levels, episodes, first_seed, image_size, noise, version)
    folder = Path(out)
    finished = _prepare(folder, settings)
    if finished is not None:
        return finished
    files: dict[str, str] = {}
    problems: dict[str, Counter[str]] = {}
    frames = 0
    with Progress(disable=not progress) as bar:
        line = bar.add_task("recording BabyAI's bot", total=len(settings.names) * episodes)
        for level in settings.names:
            room, left_out = Room(level, image_size // VIEW), problems.setdefault(level, Counter())
            for seed in range(first_seed, first_seed + episodes):
                path = folder / f"{_name(level, seed)}.h5"
                length, problem = _keep(path, settings), None
                if length is None:
                    episode, problem = record(room, seed, settings)
                    if episode is not None:
                        write_episode(path, episode)
                        length = len(episode.frames)
                if problem is not None:
                    left_out[problem] += 1
                else:
                    files[path.name] = file_sha256(path)
                    frames += length or 0
                bar.advance(line)
    if not files:
        raise ProjectError(f"{folder}: the bot solved no room ({problems}); record more episodes.")
    dataset: dict[str, Any] = {
        "format": FORMAT,
        "settings": asdict(settings),
        "hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        "episodes": len(files),
        "frames": frames,
        "left_out": {level: dict(counts) for level, counts in problems.items() if counts},
        "files": files,
    }
    atomic_write_json(folder / MARKER, dataset)
    (folder / STARTED).unlink(missing_ok=True)
    return dataset


def record(room: Room, seed: int, settings: Settings) -> tuple[Episode | None, str | None]:
    """The bot's drive through the room of `seed`, or None and why not."""
    room.reset(seed)
    mission, target, layout = room.mission, room.target, room.digest()
    rng = np.random.default_rng([_NOISE_STREAM, seed, *room.level.encode()])
    frames, actions, poses = [], [], []
    try:
        bot = Bot(room)
        while not room.done:
            advice = bot.advise()
            if advice is None:
                return None, "moves things out of the way"
            frames.append(room.frame())
            actions.append(COMMANDS[advice])
            poses.append(room.pose)
            pushed = advice != "stop" and rng.random() < settings.noise
            done = str(rng.choice([move for move in _MOVES if move != advice])) if pushed else advice
            room.step(done)
            bot.did(done)
    except Exception as error:  # whatever a third party's planner raises, the room is left out and counted
        return None, f"raises {type(error).__name__}"
    if room.reward <= 0:
        return None, "runs out of time"
    episode = Episode(
        id=_name(room.level, seed),
        frames=np.stack(frames),
        actions=np.array(actions, dtype=np.float32),
        instructions=(mission,),
        action_names=AXES,
        action_units=UNITS,
        control_period=PERIOD,
        scenario=room.level,
        group=f"babyai-{seed:07d}",  # the same seed gives levels of the same layout in other colours
        timestamps=np.arange(len(frames)) * PERIOD,
        poses=np.array(poses),
        attributes={
            "settings": settings.digest,
            "babyai_level": room.level,
            "seed": seed,
            "layout": layout,
            "target_name": " ".join(target),
            "minigrid": settings.minigrid,
        },
    )
    return episode, None


def _name(level: str, seed: int) -> str:
    return f"{level}-{seed:07d}"


def _prepare(folder: Path, settings: Settings) -> dict[str, Any] | None:
    """Make the folder ready; the data set itself when it is already whole."""
    wanted = asdict(settings)
    for name in (MARKER, STARTED):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            before = found["settings"] if name == MARKER else found
            different = [
                f"{key} {before.get(key)!r} instead of {value!r}"
                for key, value in wanted.items()
                if before.get(key) != value
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ProjectError(
                f"{path} cannot be read ({error}); delete the folder and record again."
            ) from error
        if different:
            raise ProjectError(
                f"{folder} holds a data set with {', '.join(different)}; choose another data.root, or delete it."
            )
        if name == MARKER:
            if all(file_sha256(folder / file) == digest for file, digest in found["files"].items()):
                return dict(found)
            path.unlink()  # a file is gone or damaged: the good ones are kept, the others recorded again
        break
    else:
        if folder.exists() and any(folder.glob("*.h5")):
            raise ProjectError(
                f"{folder} holds episodes of unknown origin, expected an empty folder; choose another data.root."
            )
    atomic_write_json(folder / STARTED, wanted)
    return None


def _keep(path: Path, settings: Settings) -> int | None:
    """The length of an episode that is whole and of these settings; None where it has to be recorded."""
    if not path.exists():
        return None
    try:
        found = open_episode(path).load()
    except ProjectError:
        return None
    if found.attributes.get("settings") != settings.digest or found.id != path.stem:
        return None
    return len(found.frames)
