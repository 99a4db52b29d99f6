"""Driving with known drivers in the real simulator: figures, order, verdicts, and the cost of rendering."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.deploy.predictor import BatchedPredictor
from src.evaluation.baselines.opponents import fit_baselines
from src.evaluation.bench import Bench
from src.evaluation.driving.closed_loop import (
    ExpertController,
    PolicyController,
    Rollout,
    Suite,
    drive,
    successes,
    summarise,
)
from src.evaluation.driving.fleet import ProcessFleet
from src.evaluation.driving.part import ClosedLoop
from src.evaluation.driving.path_error import path_error
from src.evaluation.probes import driven as probes
from src.evaluation.probes import verdicts
from src.evaluation.probes.verdicts import Thresholds, Verdict
from src.evaluation.statistics import paired, wilson
from src.sim import SUITE_VERSION, Expert, Renderer, Task, World, sample_task
from tests.deploy.standins import SPACE, toy_policy
from tests.evaluation.benches import demonstrations, small_bench
from tests.evaluation.drivers import Deaf, Obedient

CONF = Path(__file__).resolve().parents[2] / "conf"
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


def test_a_simulator_process_that_dies_is_one_sentence() -> None:
    with ProcessFleet(16, workers=2) as fleet:
        fleet.reset(FULL[:2])
        fleet._processes[1].kill()
        fleet._processes[1].join()
        with pytest.raises(RuntimeError, match="ended by itself"):
            fleet.look(np.ones(2, dtype=bool))


def test_a_reach_suite_has_no_side_figure() -> None:
    rollouts = drive(ExpertController(), Suite("reach", "layout", 3).tasks(), 16)
    side = summarise(rollouts)["right_side"]
    assert side.n == 0 and side.value is None


def section(original: Sequence[Rollout], changed: Mapping[str, Sequence[Rollout]]) -> dict[str, Any]:
    """What the part `probes` writes of what was driven."""
    figures: dict[str, Any] = {
        kind: probes.driven_figures(kind, original, rollouts) for kind, rollouts in changed.items()
    }
    figures["original"] = {"success": summarise(original)["success"]}
    figures["chance"] = probes.chances(original)
    return {"driven": {**figures, "named_object": probes.object_figures(original)}}


def probed(driver: Obedient, suite: str, episodes: int = 16) -> tuple[Verdict, dict[str, Any]]:
    tasks = Suite(suite, "layout", episodes).tasks()
    changed = {kind: drive(driver, probes.probe_tasks(kind, tasks), 16) for kind in probes.KINDS}
    found = section(drive(driver, tasks, 16), changed)
    return verdicts.listens(found, Thresholds()), found["driven"]


def test_a_driver_that_obeys_the_words_listens() -> None:
    verdict, figures = probed(Obedient(), "full1")
    assert verdict.answer == "yes", verdict.words
    assert "swapping left and right changes the outcome in 100 % (n=16" in verdict.words
    assert figures["swapped"]["obeyed_swapped"].value == figures["swapped"]["passed"].value == 1
    assert figures["swapped"]["same_commands"].value == 0
    assert figures["retargeted"]["changed"].value > 0.9
    assert figures["shuffled"]["success"].value < 0.5
    assert figures["shuffled"]["drop"].better and figures["blank"]["drop"].better


@pytest.mark.parametrize("suite", ["full1", "reach"])
def test_a_driver_that_is_deaf_does_not(suite: str) -> None:
    verdict, figures = probed(Deaf(), suite)
    assert verdict.answer == "no", verdict.words
    assert (figures["retargeted"]["changed"].value, figures["shuffled"]["drop"].better) == (0, False)


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
        found = section(original, {"swapped": drive(driver, [t.swapped() for t in tasks], 16)})
        assert found["driven"]["swapped"]["changed"].low > 0.5, "or the case shows nothing"
        verdict = verdicts.listens(found, Thresholds())
        assert verdict.answer == answer and "chance 25 %" in verdict.words, verdict.words


def test_verdicts_are_yes_or_no_only_where_the_interval_is() -> None:
    assert verdicts.decide(wilson(3, 3), 0.5) == verdicts.decide(wilson(0, 3), 0.5) == "not decided"
    assert (verdicts.decide(wilson(9, 9), 0.5), verdicts.decide(wilson(0, 9), 0.5)) == ("yes", "no")
    assert verdicts.decide(wilson(0, 0), 0.5) == "not decided"
    assert verdicts.beyond_chance(wilson(20, 60), 1 / 3) == "no"
    assert verdicts.beyond_chance(wilson(1, 3), 1 / 3) == "not decided"


def test_who_never_succeeds_cannot_be_spoiled() -> None:
    figures = {"shuffled": {"success": wilson(0, 16), "drop": paired(np.zeros(16), np.zeros(16))}}
    never = {
        "driven": {
            **figures,
            "original": {"success": wilson(0, 16)},
            "chance": {"sides": None, "objects": None},
        }
    }
    assert verdicts.listens(never, Thresholds()).answer == "not decided"


def test_objects_are_told_apart_by_the_obedient_only() -> None:
    tasks = Suite("reach", "layout", 40).tasks()
    assert verdicts.objects(section(drive(Obedient(), tasks, 16), {})).answer == "yes"
    deaf = verdicts.objects(section(drive(Deaf(), tasks, 16), {}))
    assert deaf.answer == "no" and "chance 33%" in deaf.words.replace(" %", "%")
    alone = drive(Obedient(), Suite("route1", "layout", 3).tasks(), 16)
    assert verdicts.objects(section(alone, {})).answer == "not measured"


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
            figures = probes.swapped_figures(rollouts, swapped)
            assert figures["same_commands"].value == 1 and not figures["changed"].value
    few = [successes(drive(fitted[3], FULL[:6], 16, batch_size=size)).tolist() for size in (6, 4)]
    assert few[0] == few[1]


def test_derangement_gives_everybody_anothers_words() -> None:
    texts = [f"text {i % 5}" for i in range(23)]
    out = probes.derangement(texts, seed=3)
    assert all(texts[j] != texts[i] for i, j in enumerate(out))
    assert probes.derangement(texts, seed=3) == out != probes.derangement(texts, seed=4)
    assert sorted(probes.derangement([str(i) for i in range(9)])) == list(range(9))  # each used exactly once
    assert probes.derangement(["same", "same"]) in ([1, 0], [0, 1])


# ---------------------------------------------------------------- the part


def shipped(**changes: object) -> ClosedLoop:
    """conf/evaluation/part/closed_loop.yaml with changes."""
    cfg = OmegaConf.merge(OmegaConf.load(CONF / "evaluation" / "part" / "closed_loop.yaml"), changes)
    check(cfg)
    built: ClosedLoop = build(cfg)
    return built


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return demonstrations(tmp_path_factory.mktemp("data"), episodes=8)


@pytest.fixture(scope="module")
def driven(data: EpisodeDataModule, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, dict[str, Any]]:
    bench = small_bench(data, tmp_path_factory.mktemp("run"), split=None)
    return bench, shipped(video_size=64).measure(bench)


def test_the_section_holds_policy_and_expert_of_every_suite(driven: tuple[Bench, dict[str, Any]]) -> None:
    bench, found = driven
    for suite in bench.suites:
        one, arms = found[suite.name], bench.rollouts[suite.name]
        assert (one["version"], one["tasks"]) == (SUITE_VERSION, "0–1")
        assert [r.task for r in arms["policy"]] == [r.task for r in arms["expert"]] == suite.tasks()
        assert one["policy"].keys() == {*summarise(arms["policy"]), "path_error"}
        assert one["policy"]["success"] == summarise(arms["policy"])["success"]
        assert one["policy"]["path_error"] == path_error(arms["policy"], arms["expert"])
        assert (
            one["policy"]["path_error"].value > 0 and one["expert"].keys() == summarise(arms["expert"]).keys()
        )
        assert one["expert"]["success"].value == 1
    assert shipped().verdict(found, bench) == {
        "success": "success 0 % (n=2, 95 % interval 0–66) on full1/layout"
    }


def test_what_was_driven_lies_in_the_folder_and_plays(driven: tuple[Bench, dict[str, Any]]) -> None:
    import av

    bench, found = driven
    files = found["files"]
    written = files["rollouts"]
    for suite, table, paths in zip(bench.suites, written[::2], written[1::2], strict=True):
        arms = bench.rollouts[suite.name]
        rows = list(csv.DictReader((bench.folder / table).read_text().splitlines()))
        assert [(row["controller"], int(row["index"])) for row in rows] == [
            (arm, i) for arm in ("policy", "expert") for i in range(2)
        ]
        assert [row["success"] for row in rows] == [
            str(r.outcome.success) for arm in arms.values() for r in arm
        ]
        drives = json.loads((bench.folder / paths).read_text())
        np.testing.assert_allclose(drives[1]["poses"], arms["policy"][1].poses, atol=1e-4)
    for name in files["videos"]:
        with av.open(str(bench.folder / name)) as film:
            assert sum(1 for _ in film.decode(video=0)) > 4
    assert [Path(name).stem for name in files["videos"]] == ["best", "median", "worst"]
    assert (bench.folder / files["contact_sheet"]).stat().st_size > 10_000


def test_again_the_same_figures_and_nothing_that_was_not_asked_for(
    driven: tuple[Bench, dict[str, Any]], data: EpisodeDataModule, tmp_path: Path
) -> None:
    part = shipped(expert=False, videos=False, contact_sheet=0)
    bench = small_bench(data, tmp_path, split=None)
    found = part.measure(bench)
    assert "expert" not in found["full1/layout"] and "path_error" not in found["full1/layout"]["policy"]
    assert (found["files"]["videos"], found["files"]["contact_sheet"]) == ([], None)
    assert {p.suffix for p in (tmp_path / "rollouts").iterdir()} == {".csv", ".json"}
    before = {k: v for k, v in driven[1]["full1/layout"]["policy"].items() if k != "path_error"}
    assert repr(found["full1/layout"]["policy"]) == repr(before)
    none = small_bench(data, tmp_path / "none", suites=())
    assert part.measure(none) == {} and part.verdict({}, none) == {}


def test_a_glance_drives_validation_tasks_alone(
    data: EpisodeDataModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Task] = []
    original = Bench.drive
    monkeypatch.setattr(
        Bench, "drive", lambda self, driver, tasks: (seen.extend(tasks), original(self, driver, tasks))[1]
    )
    part = shipped(glance_suite="reach/val", glance_episodes=3, every_n_epochs=2)
    bench = small_bench(data, tmp_path, suites=())
    figures = part.glance(bench)
    assert seen == Suite("reach", "val", 3).tasks() and not bench.rollouts and not any(tmp_path.iterdir())
    assert figures.keys() == {"success", "collision", "right_object"}  # no box, so no side
    assert figures == part.glance(bench) and all(0 <= value <= 1 for value in figures.values())


def test_settings_that_make_no_sense_are_refused(data: EpisodeDataModule) -> None:
    for changes, said in (
        ({"glance_suite": "full1/layout"}, "glance_suite: found full1/layout, expected <suite>/val"),
        ({"glance_suite": "full1"}, "suites are"),
        ({"video_size": 8}, "video_size 8"),
        ({"contact_sheet": -1}, "contact_sheet -1"),
        ({"every_n_epochs": 0}, "every_n_epochs is 0"),
    ):
        with pytest.raises(ProjectError, match=said):
            shipped(**changes)
    planar = replace(SPACE, names=("a", "b", "c"))
    other = SimpleNamespace(action_space=planar, episodes=lambda split: [])
    shipped(every_n_epochs=None).check(4, other)  # no glance: nothing to refuse
    with pytest.raises(ProjectError, match="axes"):
        shipped(every_n_epochs=1).check(4, other)
    attributes = {"suite": "full1", "split": "val", "index": 1, "suite_version": SUITE_VERSION}
    known = SimpleNamespace(
        action_space=SPACE, episodes=lambda split: [SimpleNamespace(attributes=attributes)]
    )
    with pytest.raises(ProjectError, match="1 of the 20 tasks of full1/val"):
        shipped(every_n_epochs=1).check(4, known)
    shipped(every_n_epochs=1).check(4, data)


def test_suites_are_parsed_or_refused_with_the_choices() -> None:
    assert Suite.parse("route2/look", 5).tasks()[0] == sample_task("route2", "look", 0)
    for wrong in ("full1", "full1/tset", "ful1/layout"):
        with pytest.raises(ProjectError, match="suites are"):
            Suite.parse(wrong, 5)
