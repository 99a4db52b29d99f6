"""Driving BabyAI's rooms: fair held-out rooms, opponents that know nothing, and who listens is known beforehand."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("minigrid", reason="install it with pip install -e '.[external]'")

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.evaluation.probes.verdicts import Verdict
from src.external.babyai_part import BabyAI, probe_figures
from src.external.driving import (
    Blindfolded,
    Drive,
    RoomTask,
    drive,
    held_out_tasks,
    retargeted,
    success,
    successes,
    summarise,
)
from src.external.levels import COMMANDS, TEST_SEEDS, Room
from tests.external.drivers import Puppet


def part(**changed: object) -> BabyAI:
    settings: dict[str, object] = {
        "levels": ["GoToObj", "GoToLocal"],
        "episodes": 24,
        "first_seed": TEST_SEEDS,
        "baselines": ["majority", "clock", "random"],
        "baseline_episodes": 6,
        "probe_episodes": 24,
        "word_effect": 0.1,
        "batch_size": 8,
        "glance_level": "GoToObj",
        "glance_episodes": 2,
        "every_n_epochs": None,
        **changed,
    }
    return BabyAI(**settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tasks() -> list[RoomTask]:
    return held_out_tasks("GoToLocal", 24, TEST_SEEDS)[0]


def test_held_out_rooms_are_new_and_solved_by_the_bot() -> None:
    tasks, passed_over = held_out_tasks("GoToObj", 4, TEST_SEEDS)
    assert [task.seed for task in tasks] == list(range(TEST_SEEDS, TEST_SEEDS + 4)) and passed_over == {}
    room = Room("GoToObj")
    room.reset(tasks[1].seed)
    later, passed_over = held_out_tasks("GoToObj", 4, TEST_SEEDS, {room.digest()})
    assert tasks[1].seed not in [task.seed for task in later] and len(later) == 4
    assert passed_over == {"recorded before": 1}


def test_a_level_whose_rooms_are_all_known_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Room, "digest", lambda self: "known")
    with pytest.raises(ProjectError, match="passed over"):
        held_out_tasks("GoToObj", 1, TEST_SEEDS, {"known"})


def test_the_bot_s_own_moves_succeed_at_the_bot_s_pace(tasks: list[RoomTask], space: ActionSpace) -> None:
    figures = summarise(drive(Puppet(hears=True), tasks, space, 8, batch_size=5))
    assert figures["success"].value == 1.0 and figures["success"].n == 24
    assert figures["steps_excess"].value == 0.0
    limit = 64  # steps; the square of the room's side, as the library sets it
    expected = np.mean([1 - 0.9 * task.bot_steps / limit for task in tasks])
    assert figures["reward"].value == pytest.approx(expected)


def test_a_drive_that_never_arrives_ends_at_the_level_s_own_time_out(
    tasks: list[RoomTask], space: ActionSpace
) -> None:
    (driven,) = drive(
        Puppet(hears=True, gives_up=True), [replace(tasks[0], instruction="go to a no thing")], space, 8
    )
    assert not driven.success and driven.reward == 0 and driven.classes == ("stop",) * 64


def test_the_batch_size_changes_no_figure(
    tasks: list[RoomTask], space: ActionSpace, actions: list[np.ndarray]
) -> None:
    drives = [
        drive(Blindfolded("random", actions, space, seed=3), tasks[:6], space, 8, batch_size=size)
        for size in (1, 4)
    ]
    assert drives[0] == drives[1]


def test_opponents_know_how_often_the_bot_chooses_what(space: ActionSpace, actions: list[np.ndarray]) -> None:
    tasks = [RoomTask("GoToObj", TEST_SEEDS, "x", ("red", "ball"), ("red", "ball"), (), 1)]
    active = np.ones(1, dtype=bool)

    def commands(name: str, steps: int) -> list[tuple[float, ...]]:
        driver = Blindfolded(name, actions, space)
        driver.reset(tasks)
        return [tuple(driver.act([], None, active)[0]) for _ in range(steps)]

    assert commands("majority", 2) == [COMMANDS["forward"]] * 2
    assert commands("clock", 3) == [COMMANDS["rotate_left"], COMMANDS["forward"], COMMANDS["forward"]]
    drawn = commands("random", 400)
    shares = {name: drawn.count(command) / 400 for name, command in COMMANDS.items()}
    assert shares["stop"] == 0 and shares["forward"] == pytest.approx(5 / 8, abs=0.1)
    assert shares["rotate_left"] == pytest.approx(2 / 8, abs=0.1)


# ---- who listens


def probed(driver: Puppet, tasks: list[RoomTask], space: ActionSpace) -> dict[str, object]:
    room = Room("GoToLocal")
    named = [retargeted(task, room) for task in tasks]
    assert all(task.target != task.own and " ".join(task.target) in task.instruction for task in named)
    kept = [replace(task, target=task.own) for task in named]
    drives = [drive(driver, which, space, 8) for which in (tasks, kept, named)]
    return probe_figures(*drives)


@pytest.mark.parametrize(
    ("driver", "answer"),
    [
        (Puppet(hears=True), "yes"),
        (Puppet(hears=False), "no"),
        (Puppet(hears=True, gives_up=True), "not decided"),  # other words stop it: it heard, but did not obey
    ],
    ids=["listens", "deaf", "breaks down"],
)
def test_who_listens_is_found_out(
    driver: Puppet, answer: str, tasks: list[RoomTask], space: ActionSpace
) -> None:
    figures = probed(driver, tasks, space)
    verdict = part().listens("GoToLocal", figures)
    assert isinstance(verdict, Verdict) and verdict.answer == answer, verdict.words


def wandering(task: RoomTask, seed: int, chance: float) -> Drive:
    won = bool(np.random.default_rng([seed, task.seed]).random() < chance)
    return Drive(task, won, float(won), ())


def test_a_policy_that_ignores_words_and_wanders_is_never_said_to_listen(tasks: list[RoomTask]) -> None:
    """Not even one whose drives differ by chance, as with a head that samples its actions: no accusation in reverse."""
    many = [replace(tasks[0], seed=i) for i in range(100)]
    answers = []
    for trial in range(40):
        arms = [[wandering(task, 3 * trial + arm, 0.4) for task in many] for arm in range(3)]
        answers.append(part().listens("x", probe_figures(*arms)).answer)
    assert answers.count("yes") <= 1  # both tests would have to be fooled at once


def test_too_few_rooms_or_no_success_decide_nothing(tasks: list[RoomTask]) -> None:
    lost = [Drive(task, False, 0.0, ()) for task in tasks]
    assert part().listens("x", probe_figures(lost, lost, lost)).answer == "not decided"
    won = [Drive(task, True, 1.0, ()) for task in tasks[:3]]
    assert part().listens("x", probe_figures(won, lost[:3], won)).answer == "not decided"


def test_figures_of_drives() -> None:
    task = RoomTask("GoToObj", 1, "x", ("red", "ball"), ("red", "ball"), (), 4)
    drives = [Drive(task, True, 0.9, ("forward",) * 6), Drive(task, False, 0.0, ("stop",) * 64)]
    assert successes(drives).tolist() == [1.0, 0.0] and success(drives).value == 0.5
    assert summarise(drives)["steps_excess"].value == 0.5
    assert drives[0].to_dict()["target"] == "red ball"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"levels": ["GoToDoor"]}, "GoToDoor"),
        ({"first_seed": 5}, "first_seed: found 5, expected 1000000"),
        ({"baselines": ["mean"]}, "mean"),
        ({"episodes": 0}, "episodes"),
        ({"word_effect": 1.0}, "word_effect"),
        ({"glance_level": "x"}, "glance_level"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        part(**changed)
