"""One demonstration: the expert drives a task, disturbed or not, and the drive becomes an Episode.

Flows in: Settings and a slot number. Flows out: an Episode and how many attempts failed. A pure function of both, so
any process may record any slot. The disturbance moves the robot, the record keeps the expert's answer to where it
ended up: that is what teaches a policy to recover.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np

from src.core.errors import ProjectError
from src.data.episode import Episode
from src.sim.expert import Expert
from src.sim.instructions import LANGUAGES
from src.sim.renderer import Renderer
from src.sim.scene import HELD_OUT_COMBINATIONS, Pose
from src.sim.stage import CONTROL_PERIOD
from src.sim.tasks import SPLITS, SUITE_VERSION, SUITES, Task, sample_task
from src.sim.world import World

TWINS = ("none", "side", "target", "both")
ACTION_NAMES = ("linear_x", "linear_y", "angular_z")
ACTION_UNITS = ("m/s", "m/s", "rad/s")
ATTEMPTS = 10
LAYOUTS_PER_SEED = 100_000

_PERSISTENCE = 0.7  # of the disturbance from one step to the next: it lasts about a second
_START_SHIFT = 0.6  # m of start shift per unit of noise (0.15 m at 0.25)
_START_TURN = 0.6  # rad of start turn per unit of noise
_NOISE_STREAM = 7919  # keeps the noise apart from the layouts, which use other seeds


@dataclass(frozen=True)
class Settings:
    """What the content of a data set depends on; two data sets with equal settings are equal byte by byte."""

    suite: str
    split: str
    episodes: int
    image_size: int
    noise: float
    seed: int
    language: str
    twins: str
    suite_version: str = SUITE_VERSION

    def __post_init__(self) -> None:
        for key, known in (("suite", SUITES), ("split", SPLITS), ("language", LANGUAGES), ("twins", TWINS)):
            if getattr(self, key) not in known:
                raise ProjectError(
                    f"{key} is {getattr(self, key)!r}, expected one of {', '.join(known)}; set {key}."
                )
        if not 1 <= self.episodes <= LAYOUTS_PER_SEED:
            raise ProjectError(
                f"episodes is {self.episodes}, expected 1 to {LAYOUTS_PER_SEED}; set episodes."
            )
        if not (math.isfinite(self.noise) and 0 <= self.noise <= 1):
            raise ProjectError(f"noise is {self.noise}, expected 0 to 1 (m/s and rad/s); 0.25 is usual.")
        if self.seed < 0:
            raise ProjectError(f"seed is {self.seed}, expected 0 or more; set seed.")
        if self.twins in ("side", "both") and self.suite == "reach":
            raise ProjectError(
                "twins is about sides, but suite reach has no box; use twins=target or another suite."
            )
        if self.twins in ("target", "both") and self.suite.startswith("route"):
            raise ProjectError(
                f"twins is about targets, but suite {self.suite} has one object; use twins=side."
            )

    @property
    def variants(self) -> int:
        """Episodes per layout."""
        return {"none": 1, "side": 2, "target": 2, "both": 4}[self.twins]

    @property
    def digest(self) -> str:
        """16 hex digits that name these settings, the number of episodes left out: more of the same is the same."""
        settings = {key: value for key, value in asdict(self).items() if key != "episodes"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    def layout(self, slot: int) -> int:
        """The task index of a slot. Seed s begins at layout s * 100,000 of the split."""
        return self.seed * LAYOUTS_PER_SEED + slot // self.variants

    def slot_id(self, slot: int) -> str:
        """Episode id of a slot: suite, split, layout, and the twin's number where there are twins."""
        name = f"{self.suite}-{self.split}-{self.layout(slot):06d}"
        return f"{name}-twin{slot % self.variants}" if self.variants > 1 else name


def slot_task(settings: Settings, slot: int) -> Task:
    """The task of a slot. Consecutive slots of one layout are twins: same scene, other instruction."""
    layout, variant = settings.layout(slot), slot % settings.variants
    task = sample_task(settings.suite, settings.split, layout, settings.language)
    if settings.twins in ("target", "both") and variant % 2:
        named = [
            i
            for i, thing in enumerate(task.scene.things)
            if i != task.target
            and (task.split != "combination" or thing.combination in HELD_OUT_COMBINATIONS)
        ]
        task = task.retargeted(named[layout % len(named)])
        variant //= 2
    elif settings.twins == "both":
        variant //= 2
    return task.swapped() if settings.twins in ("side", "both") and variant % 2 else task


@lru_cache(maxsize=2)
def _renderer(image_size: int) -> Renderer:
    return Renderer(image_size)


def record(settings: Settings, slot: int) -> tuple[Episode | None, int]:
    """The episode of a slot and the number of failed attempts dropped before it; None when all attempts failed.

    A failed drive is driven again under other noise, so hard layouts are not thinned out of the data.
    """
    task = slot_task(settings, slot)
    for attempt in range(ATTEMPTS):
        episode = _attempt(settings, task, slot, attempt)
        if episode is not None:
            return episode, attempt
        if settings.noise == 0:
            break  # the next attempt would be the same
    return None, attempt + 1


def _attempt(settings: Settings, task: Task, slot: int, attempt: int) -> Episode | None:
    """One drive, or None when it did not succeed."""
    seed = [_NOISE_STREAM, settings.seed, SUITES.index(task.suite), SPLITS.index(task.split), slot, attempt]
    rng = np.random.default_rng(seed)
    world = World(task)
    world.reset(_disturbed_start(rng, task.scene.start, settings.noise))
    expert, renderer = Expert(world), _renderer(settings.image_size)
    disturbance = settings.noise * rng.standard_normal(3)
    frames, actions, poses = [], [], []
    while not world.done:
        command = expert.act()
        frames.append(renderer.render(world))
        actions.append(command)
        poses.append(world.pose)
        world.step(command + disturbance)
        fresh = settings.noise * math.sqrt(1 - _PERSISTENCE**2) * rng.standard_normal(3)
        disturbance = _PERSISTENCE * disturbance + fresh
    outcome = world.outcome()
    if not outcome.success:
        return None
    return Episode(
        id=settings.slot_id(slot),
        frames=np.stack(frames),
        actions=np.stack(actions).astype(np.float32),
        instructions=(task.instruction, *task.paraphrases),
        action_names=ACTION_NAMES,
        action_units=ACTION_UNITS,
        control_period=CONTROL_PERIOD,
        scenario="-".join((task.suite, *task.sides)),
        group=task.group,
        timestamps=np.arange(len(frames)) * CONTROL_PERIOD,
        poses=np.array(poses),
        attributes={
            "settings": settings.digest,
            "suite_version": SUITE_VERSION,
            "suite": task.suite,
            "split": task.split,
            "index": task.index,
            "language": task.language,
            "target": task.target,
            "target_name": f"{task.target_thing.colour} {task.target_thing.shape}",
            "sides": ",".join(task.sides),
            "noise": settings.noise,
            "dropped_attempts": attempt,
            "spl": outcome.spl,
        },
    )


def _disturbed_start(rng: np.random.Generator, start: Pose, noise: float) -> Pose:
    shift_x, shift_y = _START_SHIFT * noise * rng.uniform(-1, 1, 2)
    return start[0] + shift_x, start[1] + shift_y, start[2] + _START_TURN * noise * rng.uniform(-1, 1)
