"""Which task to drive: suites, splits, and the deterministic draw of one task from (suite, split, index).

Flows in: suite, split, index, language. Flows out: a frozen Task (scene, instruction, target, demanded sides).
The same triple gives the same task on every machine; different splits draw from different random streams. The layout is
drawn before and apart from target, sides and wording, so nothing in the picture hints at the instruction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from src.core.errors import ProjectError
from src.sim import instructions
from src.sim.looks import object_rgb, sample_look
from src.sim.route import is_drivable, opposite
from src.sim.scene import (
    COLOURS,
    HELD_OUT_COMBINATIONS,
    SHAPES,
    START,
    TRAIN_COMBINATIONS,
    Box,
    Pose,
    Scene,
    Thing,
)

SUITE_VERSION = "1"
SUITES = ("reach", "route1", "route2", "full1", "full2")
SPLITS = ("train", "val", "layout", "combination", "look", "wide", "phrasing")
MAX_STEPS = 32

_BOXES = {"reach": 0, "route1": 1, "route2": 2, "full1": 1, "full2": 2}
_THINGS = {"reach": 3, "route1": 1, "route2": 1, "full1": 3, "full2": 3}
_ATTEMPTS = 2000


@dataclass(frozen=True)
class Task:
    """One thing to do: a scene, the words, and what the words demand.

    `target` indexes `scene.things`; `sides` holds "left" / "right" per box in driving order; `template` is the number
    of the phrasing and `paraphrases` are the other sentences of the same meaning (same split's phrasings).
    """

    suite: str
    split: str
    index: int
    language: str
    scene: Scene
    target: int
    sides: tuple[str, ...]
    instruction: str
    template: int
    paraphrases: tuple[str, ...]

    @property
    def group(self) -> str:
        """Name of the layout; counterfactual twins share it."""
        return f"{self.suite}-{self.split}-{self.index:06d}"

    @property
    def target_thing(self) -> Thing:
        return self.scene.things[self.target]

    def with_instruction(self, text: str) -> Task:
        """The same demands under other words; the outcome is still judged by the demands."""
        return replace(self, instruction=text, paraphrases=())

    def swapped(self) -> Task:
        """The counterfactual twin: left and right exchanged in the words and in the demands."""
        return replace(
            self,
            sides=tuple(opposite(side) for side in self.sides),
            instruction=instructions.mirrored(self.instruction),
            paraphrases=tuple(instructions.mirrored(text) for text in self.paraphrases),
        )

    def retargeted(self, target: int) -> Task:
        """The counterfactual twin that names another object of the same scene."""
        if not 0 <= target < len(self.scene.things):
            raise ProjectError(
                f"Task.retargeted: target is {target}, expected 0 to {len(self.scene.things) - 1}; "
                "name an existing one."
            )
        return _worded(replace(self, target=target), self.template)


def _worded(task: Task, template: int) -> Task:
    """The task with its instruction from phrasing number `template` and the other phrasings as paraphrases."""
    thing = task.target_thing
    phrasings = instructions.phrasings(len(task.scene.boxes), task.language, task.split == "phrasing")
    texts = [instructions.render(p, task.sides, thing.colour, thing.shape, task.language) for p in phrasings]
    others = (*texts[:template], *texts[template + 1 :])
    return replace(task, template=template, instruction=texts[template], paraphrases=others)


def sample_task(suite: str, split: str, index: int, language: str = "en") -> Task:
    """The task number `index` (>= 0) of a suite and split; the same arguments always give the same task."""
    for name, value, known in (("suite", suite, SUITES), ("split", split, SPLITS)):
        if value not in known:
            raise ProjectError(
                f"sample_task: {name} is {value!r}, expected one of {', '.join(known)}; set {name}."
            )
    if index < 0:
        raise ProjectError(f"sample_task: index is {index}, expected 0 or more; set index.")
    seed = [int(SUITE_VERSION), SUITES.index(suite), SPLITS.index(split), index]
    layout_rng, words_rng = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
    scene = _sample_scene(layout_rng, suite, split)
    named = [
        i
        for i, t in enumerate(scene.things)
        if split != "combination" or t.combination in HELD_OUT_COMBINATIONS
    ]
    target = named[int(words_rng.integers(len(named)))]
    sides = tuple(("left", "right")[int(words_rng.integers(2))] for _ in scene.boxes)
    template = int(
        words_rng.integers(len(instructions.phrasings(len(scene.boxes), language, split == "phrasing")))
    )
    return _worded(Task(suite, split, index, language, scene, target, sides, "", 0, ()), template)


def _sample_combinations(rng: np.random.Generator, split: str, count: int) -> list[tuple[str, str]]:
    """Distinct colour-shape pairs in random order.

    In the split "combination" at least two of three are held out (one of one), so that being new does not give the
    target away; everywhere else none is.
    """
    if split != "combination":
        order = rng.permutation(len(TRAIN_COMBINATIONS))[:count]
        return [TRAIN_COMBINATIONS[int(i)] for i in order]
    new = [
        HELD_OUT_COMBINATIONS[int(i)] for i in rng.permutation(len(HELD_OUT_COMBINATIONS))[: min(2, count)]
    ]
    every = [(c, s) for c in COLOURS for s in SHAPES if (c, s) not in new]
    rest = [every[int(i)] for i in rng.permutation(len(every))[: count - len(new)]]
    pairs = new + rest
    return [pairs[int(i)] for i in rng.permutation(count)]


def _sample_scene(rng: np.random.Generator, suite: str, split: str) -> Scene:
    look = sample_look(rng, held_out=split == "look")
    combinations = _sample_combinations(rng, split, _THINGS[suite])
    wide = split == "wide"
    for _ in range(_ATTEMPTS):
        boxes = _sample_boxes(rng, _BOXES[suite], wide)
        things = _sample_things(rng, combinations, wide, far=_BOXES[suite] == 2)
        scene = Scene(things, boxes, look, _sample_start(rng, wide))
        if is_drivable(scene):
            return scene
    raise ProjectError(
        f"sample_task: no drivable layout for suite {suite!r}, split {split!r} in {_ATTEMPTS} draws; "
        "widen the ranges in src/sim/tasks.py."
    )


def _sample_start(rng: np.random.Generator, wide: bool) -> Pose:
    shift, turn = (0.35, 0.25) if wide else (0.20, 0.14)
    return (
        START[0] + float(rng.uniform(-0.15, 0.15)),
        START[1] + float(rng.uniform(-shift, shift)),
        float(rng.uniform(-turn, turn)),
    )


def _sample_boxes(rng: np.random.Generator, count: int, wide: bool) -> tuple[Box, ...]:
    # Distances (m) from the nominal start; two boxes leave a gap that a slalom fits through.
    distances = {0: (), 1: ((2.1, 2.9),), 2: ((1.6, 1.8), (3.6, 3.8))}[count]
    depth, width = ((0.45, 0.75), (0.65, 1.05)) if count == 1 else ((0.40, 0.55), (0.55, 0.85))
    turn, shift = (0.35, 0.40) if count == 1 else (0.22, 0.30)
    if wide:
        turn, shift = turn * 1.4, shift * 1.6
    return tuple(
        Box(
            x=START[0] + float(rng.uniform(low, high)),
            y=START[1] + float(rng.uniform(-shift, shift)),
            yaw=float(rng.uniform(-turn, turn)),
            depth=float(rng.uniform(*depth)),
            width=float(rng.uniform(*width)),
            # Below the camera (0.55 m): a box hides the feet of what stands behind it, never its colour and shape.
            height=float(rng.uniform(0.34, 0.44)),
        )
        for low, high in distances
    )


def _sample_things(
    rng: np.random.Generator, combinations: list[tuple[str, str]], wide: bool, far: bool
) -> tuple[Thing, ...]:
    """Objects in a fan before the start, neighbours at least 0.30 rad apart."""
    count, gap = len(combinations), 0.30
    fan = 0.55 if wide else 0.42
    nearest, farthest = (5.3, 6.2) if far else (4.7, 5.9)
    if wide:
        farthest += 0.5
    # Uniform among all bearings with these gaps: draw in the fan without the gaps, then put the gaps back.
    sorted_bearings = np.sort(rng.uniform(-fan, fan - gap * (count - 1), count)) + gap * np.arange(count)
    bearings = rng.permutation(sorted_bearings)
    distances = rng.uniform(nearest, farthest, count)
    return tuple(
        Thing(
            colour=colour,
            shape=shape,
            x=START[0] + float(r * math.cos(b)),
            y=START[1] + float(r * math.sin(b)),
            # Cubes show mostly one face: a square against the ball's disc.
            yaw=float(b + rng.uniform(-0.35, 0.35)),
            rgb=object_rgb(rng, colour),
        )
        for (colour, shape), b, r in zip(combinations, bearings, distances, strict=True)
    )
