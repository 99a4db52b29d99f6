"""Tasks are deterministic, splits hold out what they say, words and demands agree."""

import dataclasses
import itertools

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.sim import SPLITS, SUITES, sample_task
from src.sim.instructions import (
    HELD_OUT_PHRASINGS,
    LANGUAGES,
    TRAIN_PHRASINGS,
    corpus,
    mirrored,
    object_name,
    phrasings,
)
from src.sim.route import is_drivable
from src.sim.scene import COLOURS, HELD_OUT_COMBINATIONS, OBJECT_RGB, SHAPES, TRAIN_COMBINATIONS

N = 25


@pytest.mark.parametrize("suite", SUITES)
def test_same_arguments_same_task_and_other_arguments_other_task(suite):
    tasks = {(split, i): sample_task(suite, split, i) for split in SPLITS for i in range(4)}
    for (split, i), task in tasks.items():
        assert sample_task(suite, split, i) == task
    for a, b in itertools.combinations(tasks.values(), 2):
        assert a.scene.things != b.scene.things
        assert a.group != b.group


@pytest.mark.parametrize("suite", SUITES)
def test_layout_does_not_depend_on_language(suite):
    english, korean = sample_task(suite, "train", 3), sample_task(suite, "train", 3, "ko")
    assert (english.scene, english.target, english.sides) == (korean.scene, korean.target, korean.sides)
    assert english.instruction != korean.instruction


def test_combinations_are_held_out_of_every_split_but_their_own():
    assert len(HELD_OUT_COMBINATIONS) == 4
    assert {c for c, _ in TRAIN_COMBINATIONS} == set(COLOURS)
    assert {s for _, s in TRAIN_COMBINATIONS} == set(SHAPES)
    for suite, split in itertools.product(SUITES, SPLITS):
        for i in range(8):
            task = sample_task(suite, split, i)
            held_out = [thing.combination in HELD_OUT_COMBINATIONS for thing in task.scene.things]
            if split != "combination":
                assert not any(held_out)
            else:
                assert held_out[task.target]
                # Were only the target new, novelty would give it away.
                assert sum(held_out) >= min(2, len(held_out))


@pytest.mark.parametrize("suite", SUITES)
def test_scene_contents(suite):
    boxes, things = {"reach": (0, 3), "route1": (1, 1), "route2": (2, 1), "full1": (1, 3), "full2": (2, 3)}[
        suite
    ]
    for i in range(N):
        task = sample_task(suite, "train", i)
        assert (len(task.scene.boxes), len(task.scene.things)) == (boxes, things)
        assert len(task.sides) == boxes
        assert len({thing.combination for thing in task.scene.things}) == things
        assert is_drivable(task.scene)
        xs = [box.x for box in task.scene.boxes]
        assert xs == sorted(xs), "boxes are listed in driving order"


def test_every_target_position_and_side_occurs_equally_often():
    tasks = [sample_task("full1", "train", i) for i in range(150)]
    bearings = [np.argsort(np.argsort([-t.y for t in task.scene.things]))[task.target] for task in tasks]
    counts = np.bincount(bearings, minlength=3)
    assert counts.min() > 30, counts
    assert 50 < sum(task.sides == ("left",) for task in tasks) < 100
    # The box must not tell the side, nor where the target is.
    offset = np.array([task.scene.boxes[0].y - 4 for task in tasks])
    side = np.array([1.0 if task.sides == ("left",) else -1.0 for task in tasks])
    target = np.array([task.target_thing.y - 4 for task in tasks])
    assert abs(np.corrcoef(offset, side)[0, 1]) < 0.25
    assert abs(np.corrcoef(offset, target)[0, 1]) < 0.25


def test_looks_of_the_look_split_never_occur_elsewhere():
    train = {
        sample_task("reach", split, i).scene.look.floor
        for split in SPLITS
        if split != "look"
        for i in range(N)
    }
    held_out = {sample_task("reach", "look", i).scene.look.floor for i in range(N)}
    assert not train & held_out


def test_nothing_but_objects_is_saturated():
    def saturation(rgb):
        return (max(rgb) - min(rgb)) / max(rgb)

    for split in ("train", "look"):
        for i in range(N):
            look = sample_task("full1", split, i).scene.look
            muted = (look.floor_a, look.floor_b, look.wall, look.sky, look.pedestal)
            assert max(map(saturation, muted)) < 0.35
    assert min(map(saturation, OBJECT_RGB.values())) > 0.85


def test_wide_layouts_are_wider():
    def spread(split):
        tasks = [sample_task("reach", split, i) for i in range(60)]
        return np.std([thing.y for task in tasks for thing in task.scene.things])

    assert spread("wide") > 1.15 * spread("train")


@pytest.mark.parametrize(("suite", "language"), list(itertools.product(SUITES, LANGUAGES)))
def test_instruction_names_target_and_sides(suite, language):
    words = {"en": {"left": "left", "right": "right"}, "ko": {"left": "왼쪽", "right": "오른쪽"}}[language]
    for i, split in itertools.product(range(8), ("train", "phrasing")):
        task = sample_task(suite, split, i, language)
        thing = task.target_thing
        for text in (task.instruction, *task.paraphrases):
            assert object_name(thing.colour, thing.shape, language) in text
            places = sorted((text.index(words[side]), side) for side in set(task.sides))
            assert [side for _, side in places] == list(dict.fromkeys(task.sides))
            assert sum(text.count(word) for word in words.values()) == len(task.sides)
        assert len({task.instruction, *task.paraphrases}) == 1 + len(task.paraphrases) >= 3


@pytest.mark.parametrize("suite", SUITES)
def test_swapped_mirrors_words_and_demands_and_nothing_else(suite):
    for language in LANGUAGES:
        task = sample_task(suite, "train", 5, language)
        twin = task.swapped()
        assert all(a != b for a, b in zip(task.sides, twin.sides, strict=True))
        assert twin.swapped() == task
        assert (twin.scene, twin.target, twin.group) == (task.scene, task.target, task.group)
        assert (twin.instruction == task.instruction) == (suite == "reach")
        assert twin.instruction in corpus(language)
        assert twin.instruction == mirrored(task.instruction)


def test_retargeted_names_the_other_object_only():
    task = sample_task("full1", "train", 0)
    other = (task.target + 1) % 3
    twin = task.retargeted(other)
    thing = twin.target_thing
    assert f"{thing.colour} {thing.shape}" in twin.instruction
    assert dataclasses.replace(
        twin, target=task.target, instruction="", paraphrases=()
    ) == dataclasses.replace(task, instruction="", paraphrases=())
    with pytest.raises(ProjectError, match="target is 3"):
        task.retargeted(3)


def test_with_instruction_changes_words_only():
    task = sample_task("full2", "train", 0)
    told = task.with_instruction("dance")
    assert told.instruction == "dance"
    assert (told.sides, told.target, told.scene) == (task.sides, task.target, task.scene)


def test_held_out_phrasings_are_new_sentences_of_known_words():
    for language in LANGUAGES:
        for boxes in (0, 1, 2):
            train, held_out = phrasings(boxes, language), phrasings(boxes, language, held_out=True)
            assert (len(train), len(held_out)) == (8, 3)
            assert not set(train) & set(held_out)
        known = {
            w
            for kind in TRAIN_PHRASINGS[language].values()
            for p in kind
            for w in p.replace(",", " ").split()
        }
        new = {
            w
            for kind in HELD_OUT_PHRASINGS[language].values()
            for p in kind
            for w in p.replace(",", " ").split()
        }
        assert new <= known, new - known


def test_corpus_holds_every_instruction_that_occurs():
    texts = set(corpus())
    assert texts == set(corpus("en")) | set(corpus("ko"))
    assert len(texts) == 2 * 11 * (1 + 2 + 4) * 12
    for suite, split, language in itertools.product(SUITES, SPLITS, LANGUAGES):
        task = sample_task(suite, split, 1, language)
        assert {task.instruction, *task.paraphrases, task.swapped().instruction} <= texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("reac", "train", 0), "suite is 'reac', expected one of reach"),
        (("reach", "test", 0), "split is 'test', expected one of train"),
        (("reach", "train", -1), "index is -1"),
        (("reach", "train", 0, "fr"), "language is 'fr', expected one of en, ko"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ProjectError, match=message):
        sample_task(*arguments)
