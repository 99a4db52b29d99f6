"""Driving with known drivers in the real simulator: figures, order, verdicts, and the cost of rendering."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from src.core.errors import ProjectError
from src.deploy.predictor import BatchedPredictor
from src.evaluation import probes
from src.evaluation.baselines import fit_baselines
from src.evaluation.closed_loop import ExpertController, PolicyController, Suite, drive, successes, summarise
from src.evaluation.fleet import ProcessFleet
from src.evaluation.probes import Thresholds
from src.evaluation.statistics import paired, wilson
from src.sim import Expert, Renderer, Task, World, sample_task
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.drivers import Deaf, Obedient

FULL = Suite("full1", "layout", 16).tasks()


def test_the_expert_drives_as_it_does_alone_and_the_figures_say_so() -> None:
    rollouts = drive(ExpertController(), FULL[:7], image_size=16, batch_size=3)
    assert [r.index for r in rollouts] == list(range(7))
    for rollout, task in zip(rollouts, FULL[:7], strict=True):
        world = World(task)
        expert = Expert(world)
        while not world.done:
            world.step(expert.act())
        assert rollout.task == task and rollout.outcome == world.outcome()
        assert len(rollout.actions) == world.steps and len(rollout.poses) == world.steps + 1
        np.testing.assert_allclose(rollout.poses[-1], world.pose)
    figures = summarise(rollouts)
    assert figures["success"].value == np.mean([r.outcome.success for r in rollouts])
    assert figures["right_side"].n == 7 and figures["path_length"].value == pytest.approx(
        np.mean([r.outcome.path_length for r in rollouts])
    )


def test_frames_are_drawn_only_for_drivers_that_look_while_they_drive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[World] = []
    original = Renderer.render

    def counted(self: Renderer, world: World) -> np.ndarray:
        drawn.append(world)
        return original(self, world)

    monkeypatch.setattr(Renderer, "render", counted)
    drive(ExpertController(), FULL[:3], image_size=16)
    assert not drawn
    rollouts = drive(PolicyController(BatchedPredictor(toy_policy(), 16)), FULL[:3], image_size=16)
    assert len(drawn) == sum(len(r.actions) for r in rollouts)


def test_a_policy_drives_the_same_whatever_the_batch_and_processes() -> None:
    policy = toy_policy()
    with ProcessFleet(16, workers=2) as fleet:
        spread = drive(PolicyController(BatchedPredictor(policy, 16)), FULL[:5], 16, 3, fleet)
    here = drive(PolicyController(BatchedPredictor(policy, 16)), FULL[:5], 16, 3)
    for first, second in zip(spread, here, strict=True):
        assert first.outcome == second.outcome and first.task == second.task
        np.testing.assert_array_equal(first.actions, second.actions)
        np.testing.assert_array_equal(first.poses, second.poses)
    alone = drive(PolicyController(BatchedPredictor(policy, 16)), FULL[:5], 16, batch_size=1)
    for first, second in zip(alone, here, strict=True):
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-4)


def test_an_error_in_a_simulator_process_reaches_the_caller() -> None:
    with ProcessFleet(16, workers=2) as fleet:
        fleet.reset(FULL[:2])
        with pytest.raises(ProjectError, match="finite"):
            fleet.step(np.full((2, 3), np.nan), np.ones(2, dtype=bool))


def test_a_reach_suite_has_no_side_figure() -> None:
    rollouts = drive(ExpertController(), Suite("reach", "layout", 3).tasks(), 16)
    side = summarise(rollouts)["right_side"]
    assert side.n == 0 and side.value is None


def probed(
    driver: Obedient, suite: str, episodes: int = 16
) -> tuple[probes.Verdict, dict[str, dict[str, object]]]:
    tasks = Suite(suite, "layout", episodes).tasks()
    original = drive(driver, tasks, 16)
    figures: dict[str, dict[str, object]] = {}
    for kind in probes.KINDS:
        driven = drive(driver, probes.probe_tasks(kind, tasks), 16)
        measure = {"swapped": probes.swapped_figures, "retargeted": probes.retargeted_figures}
        figures[kind] = measure.get(kind, probes.success_figures)(original, driven)  # type: ignore[operator]
    return probes.listens(original, figures, Thresholds()), figures


def test_a_driver_that_obeys_the_words_listens() -> None:
    verdict, figures = probed(Obedient(), "full1")
    assert verdict.answer == "yes", verdict.words
    assert "swapping left and right changes the outcome in 100 % (n=16" in verdict.words
    assert figures["swapped"]["obeyed_swapped"].value == 1  # type: ignore[attr-defined]
    assert figures["retargeted"]["changed"].value > 0.9  # type: ignore[attr-defined]
    assert figures["shuffled"]["success"].value < 0.5  # type: ignore[attr-defined]
    assert figures["shuffled"]["drop"].better and figures["blank"]["drop"].better  # type: ignore[attr-defined]


@pytest.mark.parametrize("suite", ["full1", "reach"])
def test_a_driver_that_is_deaf_does_not(suite: str) -> None:
    verdict, figures = probed(Deaf(), suite)
    assert verdict.answer == "no", verdict.words
    assert (figures["retargeted"]["changed"].value, figures["shuffled"]["drop"].better) == (0, False)  # type: ignore[attr-defined]


def test_without_boxes_the_strangers_words_decide() -> None:
    verdict, _ = probed(Obedient(), "reach", 80)
    assert verdict.answer == "yes" and "another task's instruction" in verdict.words


@pytest.mark.parametrize(("driver", "suite"), [(Obedient, "full1"), (Deaf, "full1"), (Obedient, "reach")])
def test_three_episodes_decide_nothing(driver: type[Obedient], suite: str) -> None:
    verdict, _ = probed(driver(), suite, 3)
    assert verdict.answer == "not decided", verdict.words


class CoinTosser(Deaf):
    """Takes sides at random, whatever is said."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def hear(self, task: Task) -> Task:
        return replace(task, sides=tuple(self.rng.choice(("left", "right"), len(task.scene.boxes))))


class TwoBoxObedient(Deaf):
    """Takes the sides that are demanded, as one who understands the words would."""

    def hear(self, task: Task) -> Task:
        return task


def test_around_two_boxes_chance_changes_much_and_obeys_little() -> None:
    tasks = Suite("route2", "layout", 60).tasks()
    for driver, answer in ((CoinTosser(), "no"), (TwoBoxObedient(), "yes")):
        original = drive(driver, tasks, 16)
        figures = {
            "swapped": probes.swapped_figures(original, drive(driver, [t.swapped() for t in tasks], 16))
        }
        assert figures["swapped"]["changed"].low > 0.5, "or the case shows nothing"
        verdict = probes.listens(original, figures, Thresholds())
        assert verdict.answer == answer and "chance 25 %" in verdict.words, verdict.words


def test_verdicts_are_yes_or_no_only_where_the_interval_is() -> None:
    assert probes.decide(wilson(3, 3), 0.5) == probes.decide(wilson(0, 3), 0.5) == "not decided"
    assert (probes.decide(wilson(9, 9), 0.5), probes.decide(wilson(0, 9), 0.5)) == ("yes", "no")
    assert probes.decide(wilson(0, 0), 0.5) == "not decided"
    assert probes.beyond_chance(wilson(20, 60), 1 / 3) == "no"
    assert probes.beyond_chance(wilson(1, 3), 1 / 3) == "not decided"


def test_who_never_succeeds_cannot_be_spoiled() -> None:
    figures = {"shuffled": {"success": wilson(0, 16), "drop": paired(np.zeros(16), np.zeros(16))}}
    original = drive(Deaf(), Suite("reach", "layout", 4).tasks(), 16)
    failed = [replace(r, outcome=replace(r.outcome, success=False)) for r in original]
    assert probes.listens(failed, figures, Thresholds()).answer == "not decided"


def test_objects_are_told_apart_by_the_obedient_only() -> None:
    tasks = Suite("reach", "layout", 40).tasks()
    assert probes.tells_objects_apart(drive(Obedient(), tasks, 16)).answer == "yes"
    deaf = probes.tells_objects_apart(drive(Deaf(), tasks, 16))
    assert deaf.answer == "no" and "chance 33%" in deaf.words.replace(" %", "%")
    alone = drive(Obedient(), Suite("route1", "layout", 3).tasks(), 16)
    assert probes.tells_objects_apart(alone).answer == "not measured"


def test_a_clock_fails_on_unseen_rooms_and_is_deaf() -> None:
    demonstrations = drive(ExpertController(), Suite("full1", "train", 20).tasks(), 16)
    fitted = fit_baselines(
        ["majority", "mean", "repeat_last", "clock", "random", "straight"],
        [r.actions for r in demonstrations],
        SPACE,
    )
    for baseline in fitted:
        rollouts = drive(baseline, FULL, 16)
        assert summarise(rollouts)["success"].value <= 0.4, baseline.name
        swapped = drive(baseline, probes.probe_tasks("swapped", FULL), 16)
        if baseline.name != "random":
            assert probes.swapped_figures(rollouts, swapped)["changed"].value == 0
    few = [successes(drive(fitted[3], FULL[:6], 16, batch_size=size)).tolist() for size in (6, 4)]
    assert few[0] == few[1]


def test_derangement_gives_everybody_anothers_words() -> None:
    texts = [f"text {i % 5}" for i in range(23)]
    out = probes.derangement(texts, seed=3)
    assert all(texts[j] != texts[i] for i, j in enumerate(out))
    assert probes.derangement(texts, seed=3) == out != probes.derangement(texts, seed=4)
    assert sorted(probes.derangement([str(i) for i in range(9)])) == list(range(9))  # each used exactly once
    assert probes.derangement(["same", "same"]) in ([1, 0], [0, 1])


def test_suites_are_parsed_or_refused_with_the_choices() -> None:
    assert Suite.parse("route2/look", 5).tasks()[0] == sample_task("route2", "look", 0)
    for wrong in ("full1", "full1/tset", "ful1/layout"):
        with pytest.raises(ProjectError, match="suites are"):
            Suite.parse(wrong, 5)
