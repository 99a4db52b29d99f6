"""Findings about the split, and the check that a training makes at its start."""

import time
from pathlib import Path

import numpy as np
import pytest

from src.data.check import leakage
from src.data.check.files import open_all
from src.data.check.leakage import planned_split
from src.data.check.quick import SPLIT_CHECKS, quick_check
from src.data.split import SplitRule, load_or_make_split
from tests.data.builders import SPACE
from tests.data.check.folders import ask, drive, gather, sound


def test_a_sound_split_raises_nothing(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound())
    facts.split, facts.split_fault = planned_split(facts.episodes, SplitRule(), tmp_path)
    assert set(facts.split.values()) == {"train", "val", "test"} and facts.split_fault is None
    checkers = (*SPLIT_CHECKS, leakage.same_view_across_splits)
    assert [f.code for checker in checkers for f in checker(facts)] == []


def test_the_planned_split_is_the_one_of_the_training_and_nothing_is_written(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound())
    before = sorted(tmp_path.iterdir())
    planned, _ = planned_split(facts.episodes, SplitRule(seed=3), tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    made = load_or_make_split(facts.episodes, SplitRule(seed=3), tmp_path).members
    assert planned == {i: name for name, ids in made.items() for i in ids}
    assert planned_split(facts.episodes, SplitRule(seed=3), tmp_path) == (planned, None)


def test_a_stored_split_that_does_not_fit_is_an_error_and_the_check_goes_on(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound())
    load_or_make_split(facts.episodes[1:], SplitRule(), tmp_path)
    facts.split, facts.split_fault = planned_split(facts.episodes, SplitRule(), tmp_path)
    assert len(facts.split) == len(facts.episodes)
    assert ask(leakage.unusable_split, facts)["unusable_split"].severity == "error"


def test_copies_and_groups_in_two_splits(tmp_path: Path) -> None:
    one = drive("one", group="g")
    made = [
        one,
        drive("copy", frames=one.frames, actions=one.actions),
        drive("near", group="g"),
        drive("far"),
    ]
    split = {"one": "train", "copy": "test", "near": "val", "far": "train"}
    facts = gather(tmp_path, made, split=split)
    copies = ask(leakage.duplicates_across_splits, facts)["duplicate_across_splits"]
    assert [p.name for p in copies.files] == [
        "000-one.h5",
        "001-copy.h5",
    ] and "test and train" in copies.reason
    cut = ask(leakage.groups_across_splits, facts)["group_across_splits"]
    assert [p.name for p in cut.files] == ["000-one.h5", "002-near.h5"]
    facts.split = dict.fromkeys(split, "train")
    assert not ask(leakage.duplicates_across_splits, facts) and not ask(leakage.groups_across_splits, facts)


def test_the_same_view_in_training_and_test(tmp_path: Path) -> None:
    one = drive("one", size=32)
    noise = np.random.default_rng(0).integers(-2, 3, one.frames.shape)
    near = np.clip(one.frames.astype(int) + noise, 0, 255).astype(np.uint8)
    made = [one, drive("near", size=32, frames=near), drive("far", size=32)]
    facts = gather(tmp_path, made, split={"one": "train", "near": "test", "far": "test"})
    found = ask(leakage.same_view_across_splits, facts)["same_view_across_splits"]
    assert [p.name for p in found.files] == ["001-near.h5"] and "1 of 2" in found.reason


def test_a_recording_session_in_two_splits(tmp_path: Path) -> None:
    made = [drive(f"episode_2026010{day}_01020{i}", scenario="left") for day in (1, 2) for i in range(2)]
    split = {e.id: ("train" if "0101_" in e.id or e.id.endswith("0") else "test") for e in made}
    found = ask(leakage.sessions_across_splits, gather(tmp_path, made, split=split))["session_across_splits"]
    assert "20260102 left" in found.reason and len(found.files) == 2


def test_the_check_at_the_start_of_a_training(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound())
    members = load_or_make_split(facts.episodes, SplitRule(), tmp_path).members
    assert quick_check(facts.episodes, SPACE, tmp_path, members) == []
    (tmp_path / "bad.h5").write_bytes(b"x")
    episodes, faults = open_all(tmp_path, SPACE, None)
    (found,) = quick_check(episodes, SPACE, tmp_path, members, faults)
    assert found.code == "not_hdf5" and found.spoils


@pytest.mark.slow
def test_the_start_check_of_800_episodes_takes_less_than_a_second(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound(800), frames=1)
    members = load_or_make_split(facts.episodes, SplitRule(), tmp_path).members
    begun = time.process_time()
    quick_check(facts.episodes, SPACE, tmp_path, members)
    assert time.process_time() - begun < 1.0
