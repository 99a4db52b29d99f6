"""Owns what the page shows of the recordings: example frames, frame pairs around a turn, trajectories. No HTML here.

In: `Facts`. Out: `Views`: small JPEGs and polylines in metres, chosen by fixed rules.
"""

from dataclasses import dataclass, field

import numpy as np

from src.core.errors import ProjectError
from src.data.check.confounding import path_of
from src.data.check.finding import Facts, Fault, by_value
from src.data.check.look import as_jpeg
from src.data.check.trajectory import integrate

SCENARIOS = 12
DRIVES = 60
"""Trajectories drawn per scenario at most, evenly chosen; more make one grey blot."""


@dataclass(frozen=True)
class Pair:
    """What the camera saw before and after a command with a clearly positive component on one axis."""

    axis: str
    value: float
    unit: str
    episode: str
    step: int
    before: bytes
    after: bytes


@dataclass(frozen=True)
class Scene:
    """One scenario: a first frame, a sentence, and where its drives would lead."""

    name: str
    episodes: int
    sentence: str
    jpeg: bytes
    drives: tuple[np.ndarray, ...]
    paths: dict[str, int]


@dataclass(frozen=True)
class Views:
    """All that is drawn. `hidden` is the number of scenarios left out."""

    scenes: list[Scene] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    hidden: int = 0


def views(facts: Facts) -> Views:
    """Pictures of the largest scenarios and of one positive command per sideways or turning axis.

    A frame that cannot be decoded here is added to `facts.faults`; so this comes before the findings.
    """
    members = by_value([episode.scenario for episode in facts.episodes])
    names = sorted(members, key=lambda name: (-len(members[name]), name))
    scenes = [_scene(facts, name, members[name]) for name in names[:SCENARIOS]]
    pairs = [pair for axis in ("linear_y", "angular_z") if (pair := _pair(facts, axis)) is not None]
    return Views(scenes, pairs, max(0, len(names) - SCENARIOS))


def _scene(facts: Facts, name: str, indices: list[int]) -> Scene:
    paths: dict[str, int] = {}
    for index in indices:
        word = path_of(facts, index)
        paths[word] = paths.get(word, 0) + 1
    count = min(DRIVES, len(indices))
    drawn = [indices[round(x)] for x in np.linspace(0, len(indices) - 1, count)]
    first = facts.episodes[indices[0]]
    return Scene(
        name=name,
        episodes=len(indices),
        sentence=first.instructions[0],
        jpeg=facts.samples[first.path].jpeg if first.path in facts.samples else b"",
        drives=tuple(
            integrate(e.actions, e.action_names, e.control_period)[:, :2]
            for e in (facts.episodes[i] for i in drawn)
        ),
        paths=paths,
    )


def _pair(facts: Facts, axis: str) -> Pair | None:
    """The step with the purest large positive value of `axis` that has a frame after it."""
    if axis not in facts.space.names or not len(facts.actions):
        return None
    column = facts.space.names.index(axis)
    scaled = facts.actions / facts.space.scale
    others = np.abs(np.delete(scaled, column, axis=1)).sum(axis=1)
    last = facts.steps == facts.lengths[facts.owners] - 1
    merit = np.where(last, -np.inf, scaled[:, column] - 0.25 * others)
    best = int(np.argmax(merit))
    if not scaled[best, column] > 0.1 or last[best]:
        return None
    episode, step = facts.episodes[int(facts.owners[best])], int(facts.steps[best])
    try:
        frames = episode.frames(step, step + 2)
    except ProjectError as error:  # damage between the sampled frames: no pair, but a fault that is reported
        facts.faults.append(Fault(episode.path, "damaged_frames", str(error)))
        return None
    value, unit = float(facts.actions[best, column]), facts.space.units[column]
    return Pair(axis, value, unit, episode.id, step, as_jpeg(frames[0]), as_jpeg(frames[1]))
