"""Small data sets for the tests of the check: drives that differ, pictures that show where, one fault at a time."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from src.data.actions import ActionSpace
from src.data.check.finding import Checker, Facts, Fault, Finding
from src.data.check.look import look
from src.data.episode import Episode, write_episode
from src.data.instruction import FromFile
from src.data.split import SplitRule
from tests.data.builders import NAMES, SPACE, make_episode

STOP = (0.0, 0.0, 0.0)


def drive(name: str, length: int = 8, **changes: Any) -> Episode:
    """A sound episode: its own noise in frames and actions, a stop at the end."""
    episode = make_episode(name, length, **changes)
    if "actions" not in changes:
        episode.actions[-1] = STOP
    return episode


def sound(count: int = 24) -> list[Episode]:
    """Two scenarios, two instructions with two phrasings each, independent of the pictures; lengths differ."""
    episodes = []
    for i in range(count):
        side = ("left", "right")[i % 2]
        texts = (f"pass the box on the {side}", f"keep to the {side} of the box")
        episodes.append(drive(f"e{i:03d}", 6 + i % 4, scenario=f"scene_{i // 2 % 2}", instructions=texts))
    return episodes


def gather(
    root: Path, episodes: Iterable[Episode], space: ActionSpace = SPACE, frames: int = 2, **changes: Any
) -> Facts:
    """Write the episodes and look at the folder, file by file."""
    for number, episode in enumerate(episodes):
        write_episode(root / f"{number:03d}-{episode.id}.h5", episode)
    facts = Facts(root, space, [], **changes)
    for path in sorted(root.glob("*.h5")):
        found = look(path, space, None, frames)
        if isinstance(found, Fault):
            facts.faults.append(found)
        else:
            facts.episodes.append(found[0])
            facts.samples[path] = found[1]
    return facts


def ask(checker: Checker, facts: Facts) -> dict[str, Finding]:
    """Code -> finding."""
    return {finding.code: finding for finding in checker(facts)}


def actions(*rows: Sequence[float]) -> np.ndarray:
    """(T, 3) float32."""
    return np.array(rows, np.float32).reshape(-1, len(NAMES))


def scene(steps: int) -> np.ndarray:
    """(T, 720, 1280, 3) uint8: shapes, shading and sensor noise, about as hard to compress as a room on camera."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:720, 0:1280]
    base = np.stack([x / 8 + 40, y / 5 + 30, (x // 160 + y // 120) % 2 * 90 + 60], axis=-1)
    frames = [np.roll(base, 12 * t, axis=1) + rng.normal(0, 2, base.shape) for t in range(steps)]
    return np.stack([np.clip(frame, 0, 255).astype(np.uint8) for frame in frames])


def data_of(root: Path, **changes: Any) -> Any:
    """What the check asks of a data module, without importing Lightning's."""
    fields = {
        "root": root, "action_space": SPACE, "lab": None, "instruction": FromFile(), "split_rule": SplitRule(),
        "allow_mixed_sizes": False, "on_bad_files": "error",
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})
