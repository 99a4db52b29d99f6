"""Every finding about actions: what triggers it, and what does not; the clock against a slow reference."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.data.check import actions as rules
from src.data.check.finding import Facts
from src.data.check.quick import ACTION_CHECKS
from src.data.check.trajectory import integrate, path_word
from tests.data.builders import NAMES, SPACE
from tests.data.check.folders import STOP, actions, ask, drive, gather, sound

AHEAD, LEFT, TURN = (1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)


def test_sound_actions_raise_nothing(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound())
    assert [f.code for checker in (*ACTION_CHECKS, rules.out_of_range) for f in checker(facts)] == []


def _facts(root: Path, *drives: list[tuple[float, float, float]], **changes: object) -> Facts:
    made = [drive(f"d{i}", len(rows), actions=actions(*rows), **changes) for i, rows in enumerate(drives)]
    return gather(root, made)


def test_actions_beyond_the_limits(tmp_path: Path) -> None:
    facts = _facts(tmp_path, [AHEAD, STOP], [(1.15, 0, 0), (0, -2.5, 0)])
    found = ask(rules.out_of_range, facts)["out_of_range"]
    assert found.severity == "error" and [p.name for p in found.files] == ["001-d1.h5"]
    assert "1 of 4" in found.reason and "linear_y: up to -2.5 m/s" in found.reason
    assert not ask(rules.out_of_range, _facts(tmp_path / "fine", [(1.15, -1.15, 1.15), STOP]))


def test_dead_and_constant_axes(tmp_path: Path) -> None:
    facts = _facts(tmp_path, [(1, 0, 0.5), (0, 0, 0.5)], [(0.5, 0, 0.5)])
    found = ask(rules.dead_axes, facts)
    assert set(found) == {"dead_axis", "constant_axis"}
    assert (
        "linear_y" in found["dead_axis"].reason and "angular_z is 0.5 rad/s" in found["constant_axis"].reason
    )


def test_one_action_all_along(tmp_path: Path) -> None:
    found = ask(
        rules.constant_episodes, _facts(tmp_path, [AHEAD] * 4, [AHEAD, LEFT, STOP], [AHEAD, STOP, STOP])
    )
    assert [p.name for p in found["constant_actions"].files] == ["000-d0.h5"]
    assert found["constant_actions"].severity == "note"


def test_the_same_drive_again_and_again(tmp_path: Path) -> None:
    usual, other = [AHEAD, LEFT, STOP], [LEFT, AHEAD, STOP]
    found = ask(rules.identical_sequences, _facts(tmp_path, *[usual] * 8, other))["identical_sequences"]
    assert "8 of 9" in found.reason and "88.9 %" in found.reason and len(found.files) == 8
    varied = [[(0.1 * i, 0, 0), AHEAD, STOP] for i in range(9)]
    assert not ask(rules.identical_sequences, _facts(tmp_path / "varied", *varied))


def test_the_same_drive_in_several_scenarios_is_one_finding(tmp_path: Path) -> None:
    made = []
    for scenario, rows in (("a", [AHEAD, LEFT, STOP]), ("b", [LEFT, AHEAD, STOP])):
        made += [drive(f"{scenario}{i}", 3, scenario=scenario, actions=actions(*rows)) for i in range(5)]
    made += [drive(f"c{i}", 3, scenario="c") for i in range(5)]
    (found,) = rules.identical_sequences(gather(tmp_path, made))
    assert "in 2 of 3 scenarios" in found.reason and len(found.files) == 10
    assert "5 of 5 episodes of 'a' (100.0 %), 5 of 5 episodes of 'b'" in found.reason


def test_a_clock_that_scores_is_a_warning(tmp_path: Path) -> None:
    facts = _facts(tmp_path, *[[AHEAD, LEFT, TURN, STOP]] * 8)
    assert rules.clock_accuracy(facts) == 1.0
    assert "a clock scores 100.0 %" in ask(rules.clock, facts)["clock"].reason


def test_a_clock_that_needs_the_scenario(tmp_path: Path) -> None:
    one = [drive(f"a{i}", 4, scenario="a", actions=actions(AHEAD, LEFT, AHEAD, STOP)) for i in range(5)]
    two = [drive(f"b{i}", 4, scenario="b", actions=actions(TURN, AHEAD, TURN, STOP)) for i in range(5)]
    facts = gather(tmp_path, one + two)
    assert set(ask(rules.clock, facts)) == {"scenario_clock"}


def _slow_clock(facts: Facts, condition: list[int]) -> float:
    """By the words of the docstring, one step after another."""
    labels = [SPACE.classify(e.actions).tolist() for e in facts.episodes]
    right = total = 0
    for i, own in enumerate(labels):
        everyone = Counter(c for j, row in enumerate(labels) if j != i for c in row)
        for t, truth in enumerate(own):
            votes = Counter(
                row[t]
                for j, row in enumerate(labels)
                if j != i and condition[j] == condition[i] and t < len(row)
            )
            guess = max(range(4), key=lambda c: (votes[c], everyone[c], -c))
            right, total = right + (guess == truth), total + 1
    return right / total


class _Drive:
    """Just what `Facts` asks of an episode for the clock."""

    def __init__(self, labels: list[int]) -> None:
        self.actions = np.array([list(SPACE.classes.values())[c] for c in labels], np.float32)
        self.length = len(labels)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 1)),
        min_size=2,
        max_size=8,
    )
)
def test_the_clock_is_what_its_words_say(drives: list[tuple[list[int], int]]) -> None:
    facts = Facts(Path(), SPACE, [_Drive(labels) for labels, _ in drives])  # type: ignore[misc]
    condition = [c for _, c in drives]
    assert rules.clock_accuracy(facts, condition) == pytest.approx(_slow_clock(facts, condition))
    assert rules.clock_accuracy(facts) == pytest.approx(_slow_clock(facts, [0] * len(drives)))


def test_balance_and_what_never_happens(tmp_path: Path) -> None:
    facts = _facts(tmp_path, [AHEAD] * 9 + [STOP])
    found = ask(rules.class_balance, facts)
    assert "'forward' is right in 90.0 %" in found["class_imbalance"].reason
    assert "left, rotate_left" in found["unseen_classes"].reason
    assert rules.majority(facts) == ("forward", 0.9)
    assert rules.class_shares(facts) == {"stop": 0.1, "forward": 0.9, "left": 0, "rotate_left": 0}


def test_waiting(tmp_path: Path) -> None:
    found = ask(rules.idle_frames, _facts(tmp_path, [AHEAD, LEFT, STOP], [STOP, STOP, AHEAD, STOP]))
    assert "2 of 7" in found["idle_frames"].reason
    assert [p.name for p in found["idle_frames"].files] == ["001-d1.h5"]
    assert not ask(rules.idle_frames, _facts(tmp_path / "brisk", [AHEAD, LEFT, STOP]))


def test_stops_at_the_end(tmp_path: Path) -> None:
    some = ask(rules.missing_stop, _facts(tmp_path / "some", [AHEAD, STOP], [AHEAD, AHEAD]))
    assert some["missing_stop"].severity == "warning" and [p.name for p in some["missing_stop"].files] == [
        "001-d1.h5"
    ]
    none = ask(rules.missing_stop, _facts(tmp_path / "none", [AHEAD, AHEAD], [STOP, AHEAD]))
    assert list(none) == ["no_stop"] and none["no_stop"].severity == "note"
    assert not ask(rules.missing_stop, _facts(tmp_path / "all", [AHEAD, STOP]))


def test_time_stamps_that_contradict_the_period(tmp_path: Path) -> None:
    good = drive("good", 4, timestamps=np.arange(4) * 0.4)
    slow = drive("slow", 4, timestamps=np.arange(4) * 2.0)
    found = ask(rules.uneven_time, gather(tmp_path, [good, slow]))["uneven_time"]
    assert [p.name for p in found.files] == ["001-slow.h5"] and "2 s between steps" in found.reason


def test_integration_of_an_arc_meets_the_circle() -> None:
    """A quarter circle of radius 1 m to the left, in 100 steps; and sideways motion goes to the left."""
    period, steps = 0.1, 100
    speed = np.pi / 2 / (steps * period)
    poses = integrate(np.tile([speed, 0, speed], (steps, 1)), NAMES, period)
    np.testing.assert_allclose(poses[-1], [1, 1, np.pi / 2], atol=1e-4)
    side = integrate(np.array([[0.0, 1.0, 0.0]]), NAMES, 0.5)
    np.testing.assert_allclose(side[-1], [0, 0.5, 0])
    two_axes = integrate(np.array([[1.0, 0.0]]), ("linear_x", "angular_z"), 2.0)
    np.testing.assert_allclose(two_axes[-1], [2, 0, 0])


@pytest.mark.parametrize(
    ("rows", "word"), [([AHEAD, LEFT], "left"), ([AHEAD, (0, -1, 0)], "right"), ([AHEAD], "straight")]
)
def test_the_word_for_a_path(rows: list[tuple[float, float, float]], word: str) -> None:
    assert path_word(integrate(np.array(rows), NAMES, 1.0)) == word
