"""The part `probes` as a run has it: real drives, a real policy, the YAML; what is left out says why."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.datamodule import EpisodeDataModule
from src.evaluation.bench import Bench
from src.evaluation.driving.closed_loop import Suite
from src.evaluation.offline.scores import Truth
from src.evaluation.probes import verdicts
from src.evaluation.probes.part import NOT_SPLIT, Probes
from src.evaluation.probes.recorded import last_frame
from src.evaluation.probes.verdicts import Thresholds, Verdict
from src.evaluation.report.record import plain
from src.evaluation.statistics import Estimate, PairedTest, wilson
from tests.deploy.standins import toy_policy
from tests.evaluation.benches import demonstrations, small_bench

CONF = Path(__file__).resolve().parents[3] / "conf" / "evaluation" / "part" / "probes.yaml"
SMALL = {
    "episodes": 2,
    "recorded_episodes": 5,
    "word_episodes": 1,
    "occlusion_frames": 1,
    "occlusion_grid": 2,
}


def shipped(**changes: Any) -> Probes:
    """conf/evaluation/part/probes.yaml, made small, and otherwise as shipped."""
    cfg = OmegaConf.merge(OmegaConf.load(CONF), {**SMALL, **changes})
    check(cfg)
    part = build(cfg)
    assert isinstance(part, Probes)
    return part


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataModule:
    return demonstrations(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def measured(
    data: EpisodeDataModule, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bench, dict[str, Any]]:
    bench = small_bench(data, tmp_path_factory.mktemp("run"))
    return bench, shipped().measure(bench)


def test_the_section_holds_every_probe_and_repeats_to_the_last_digit(
    measured: tuple[Bench, dict[str, Any]], data: EpisodeDataModule, tmp_path: Path
) -> None:
    bench, section = measured
    assert set(section["recorded"]) == set(shipped().recorded) and not section["not_measured"]
    assert section["driven"]["suite"] == "full1/layout" and section["driven"]["swapped"]["passed"].n == 2
    assert (
        section["recorded"]["mirrored"]["flip"].n == section["recorded"]["mirrored"]["change"].clusters == 5
    )
    assert (bench.folder / section["files"]["occlusion"][0]).read_bytes().startswith(b"\x89PNG")
    assert (
        len(section["words"]) == 1
        and section["occlusion"]["frames"][0]["image"] == section["files"]["occlusion"][0]
    )
    again = small_bench(data, tmp_path)
    assert json.dumps(plain(shipped().measure(again))) == json.dumps(plain(section))
    assert (tmp_path / section["files"]["occlusion"][0]).read_bytes() == (
        bench.folder / section["files"]["occlusion"][0]
    ).read_bytes()


def test_without_suites_nothing_is_driven_and_recordings_decide(
    data: EpisodeDataModule, tmp_path: Path
) -> None:
    part, bench = shipped(word_episodes=0, occlusion_frames=0), small_bench(data, tmp_path, suites=[])
    section = part.measure(bench)
    assert section["driven"] is None and not section["files"]["occlusion"] and not section["words"]
    said = part.verdict(section, bench)
    assert said["objects"].answer == "not measured" and "too few" in said["listens"].words


def test_without_a_split_only_driving_is_probed(data: EpisodeDataModule, tmp_path: Path) -> None:
    part, bench = shipped(), small_bench(data, tmp_path, split=None)
    section = part.measure(bench)
    assert not section["recorded"] and set(section["not_measured"].values()) == {NOT_SPLIT}
    said = part.verdict(section, bench)
    assert said["looks"] == said["remembers"] == Verdict("not measured", NOT_SPLIT)
    assert "swapping" in said["listens"].words


def test_what_makes_no_sense_for_the_data_is_left_out_with_its_reason(
    data: EpisodeDataModule, tmp_path: Path
) -> None:
    bench = small_bench(data, tmp_path, toy_policy(window=1), suites=[])
    same = [copy.copy(episode) for episode in bench.episodes]
    for episode in same:
        episode.meta = replace(episode.meta, instructions=("go to the ball on the left",))
    bench.__dict__["episodes"] = same
    part = shipped(word_episodes=3, occlusion_frames=0)
    section = part.measure(bench)
    assert set(section["recorded"]) == {"no_instruction", "no_image", "other_image"}
    said = part.verdict(section, bench)
    assert said["listens"].answer == "not measured" and "share one sentence" in said["listens"].words
    assert said["remembers"].answer == "not measured" and "data.window=1" in said["remembers"].words
    assert len(section["words"]) == 1  # one sentence, one strip


def test_the_light_version_is_few_figures_of_few_frames(data: EpisodeDataModule, tmp_path: Path) -> None:
    policy = toy_policy()
    policy.backbone.encoded = 0
    figures = shipped().glance(small_bench(data, tmp_path, policy, suites=[]))
    assert set(figures) == {"other_instruction", "mirrored", "no_image"} and min(figures.values()) > 0
    assert policy.backbone.encoded <= 4 * 8 * 32


def test_dice_of_a_head_that_samples_are_not_taken_for_an_effect(
    data: EpisodeDataModule, tmp_path: Path
) -> None:
    class Gambler:
        """Heeds nothing and draws its actions."""

        window, horizon = 3, 4
        tokenize = staticmethod(toy_policy().tokenize)

        def eval(self) -> None: ...

        def parameters(self) -> Any:
            return iter([torch.zeros(1)])

        def predict(self, batch: Any) -> torch.Tensor:
            batch.validate()
            return torch.rand(batch.size, 4, 3)

    section = shipped(driven=[], recorded_episodes=4).measure(
        small_bench(data, tmp_path, Gambler(), suites=[])
    )  # type: ignore[arg-type]
    assert {kind: figures["change"].value for kind, figures in section["recorded"].items()} == dict.fromkeys(
        section["recorded"], 0.0
    )
    assert all(word["change"].value == 0 for word in section["words"][0]["words"])
    assert section["occlusion"]["frames"][0]["grid"] == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"driven": ["swaped"]}, "no probe 'swaped'"),
        ({"recorded": ["no_image", "noimage"]}, "no probe 'noimage'"),
        ({"occlusion_grid": 0}, "occlusion_grid is 0, expected 1 or more"),
        ({"thresholds": {"flip": 1.5}}, "flip is 1.5"),
        ({"every_n_epochs": 0}, "every_n_epochs is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProjectError, match=said):
        shipped(**changes)


def test_what_cannot_be_measured_here_is_refused(data: EpisodeDataModule, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="only 16 px"):
        shipped(occlusion_grid=17).check(4, data)
    shipped().check(4, data)
    bench = small_bench(data, tmp_path, suites=[Suite("full1", "layout", 2)])
    with pytest.raises(ProjectError, match="suite is 1, but evaluation.suites has 1"):
        shipped(suite=1).measure(bench)


# ---------------------------------------------------------------- verdicts out of figures


def change(low: float, high: float, rise: float = 0.1, better: bool = True) -> dict[str, Any]:
    middle = (low + high) / 2
    test = PairedTest(Estimate(rise, rise - 0.01, rise + 0.01, 40, "bootstrap", 40), 0.001 if better else 0.5)
    return {"change": Estimate(middle, low, high, 700, "bootstrap", 40), "error_rise": test}


YES, NO, OPEN = change(0.1, 0.2), change(0.0, 0.01, 0.0, False), change(0.01, 0.2, 0.05, False)
LIMITS = Thresholds()


def test_driving_outweighs_recordings_and_recordings_stand_in_for_it() -> None:
    chance = {"chance": {"sides": 0.5, "objects": None}}
    passed = {"passed": wilson(30, 30)}
    deaf = {**chance, "swapped": {**passed, "changed": wilson(0, 30), "obeyed_swapped": wilson(15, 30)}}
    unsure = {**chance, "swapped": {**passed, "changed": wilson(15, 30), "obeyed_swapped": wilson(29, 30)}}
    heeds = {**chance, "swapped": {**passed, "changed": wilson(30, 30), "obeyed_swapped": wilson(30, 30)}}
    flips = {"mirrored": YES | {"flip": wilson(40, 40)}, "other_instruction": NO}
    silent = {"mirrored": YES | {"flip": wilson(0, 40)}, "other_instruction": NO}
    assert verdicts.listens({"driven": deaf}, LIMITS).answer == "no"
    assert verdicts.listens({"driven": deaf, "recorded": silent}, LIMITS).answer == "no"
    assert verdicts.listens({"driven": heeds, "recorded": silent}, LIMITS).answer == "yes"
    said = verdicts.listens({"driven": deaf, "recorded": flips}, LIMITS)  # they contradict one another
    assert said.answer == "not decided" and "driving says no" in said.words
    assert "outcome in 0 %" in said.words and "recorded frames say yes" in said.words
    said = verdicts.listens({"driven": unsure, "recorded": flips}, LIMITS)
    assert said.answer == "not decided" and "recorded frames say yes" in said.words
    assert verdicts.listens({"driven": None, "recorded": flips}, LIMITS).answer == "yes"
    few = {"mirrored": YES | {"flip": wilson(5, 5)}, "other_instruction": NO}
    assert verdicts.listens({"recorded": few}, LIMITS).answer == "no"  # five sides are too few to tell
    assert verdicts.listens({"recorded": {"mirrored": YES | {"flip": wilson(0, 40)}}}, LIMITS).answer == "no"
    assert verdicts.listens({}, LIMITS).answer == "not measured"


@pytest.mark.parametrize(
    ("hidden", "exchanged", "answer"),
    [
        (YES, NO, "yes"),
        (NO, YES, "yes"),
        (NO, NO, "no"),
        (NO, OPEN, "not decided"),
        (OPEN, OPEN, "not decided"),
    ],
)
def test_looking_takes_one_yes_and_blindness_two_noes(hidden: Any, exchanged: Any, answer: str) -> None:
    recorded = {"no_image": hidden, "other_image": exchanged}
    assert verdicts.looks({"recorded": recorded}, LIMITS).answer == answer


def test_words_name_the_independent_units_where_they_are_fewer_than_the_frames() -> None:
    assert verdicts.percent(wilson(97, 100)) == "97 % (n=100, 95 % interval 92–99)"
    frames = Estimate(0.3, 0.1, 0.5, 113, "bootstrap", 6)
    assert verdicts.percent(frames) == "30 % (n=113 frames of 6 groups, 95 % interval 10–50)"
    assert verdicts.percent(replace(frames, n=6)) == "30 % (n=6, 95 % interval 10–50)"
    alone = Estimate(0.3, None, None, 18, "bootstrap", 1)
    assert verdicts.percent(alone) == "30 % (n=18 frames of 1 group)"


def test_a_recurrent_policy_remembers_and_one_that_sees_the_newest_frame_does_not(
    data: EpisodeDataModule, tmp_path: Path
) -> None:
    class Newest:
        """A real policy that is shown one frame of each window."""

        def __init__(self) -> None:
            self.policy = toy_policy()
            self.window, self.horizon, self.tokenize = 3, 4, self.policy.tokenize
            self.parameters, self.eval = self.policy.parameters, self.policy.eval

        def predict(self, batch: Any) -> torch.Tensor:
            return self.policy.predict(last_frame(batch))

    for policy, answer in ((toy_policy(), "yes"), (Newest(), "no")):
        bench = small_bench(data, tmp_path, policy, suites=[])  # type: ignore[arg-type]
        truth, predicted = bench.collect()
        # As if the policy itself had driven: its inputs then matter.
        own = Truth(truth.episode, truth.t, predicted, truth.mask, truth.group, truth.scenario)
        bench.__dict__["_scored"] = (own, predicted)
        assert len(set(truth.group)) == 6
        part = shipped(recorded=["last_frame"], recorded_episodes=6, word_episodes=0, occlusion_frames=0)
        said = part.verdict(part.measure(bench), bench)["remembers"]
        assert said.answer == answer, said.words
