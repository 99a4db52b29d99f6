"""Whom the verdicts accuse: policies that are deaf, blind or clocks by construction must be caught, sound ones not.

Recorded: through the data module, the batches, `Probes.measure` and `Probes.verdict`. Driven: in the simulator, and
mixtures of an obedient and a deaf driver over many redraws of the same drives. The slow tests are the study behind
the figures in `Thresholds`; they print what they count (`pytest -s`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.data.datamodule import EpisodeDataModule
from src.evaluation.driving.closed_loop import ExpertController, Rollout, Suite, drive
from src.evaluation.probes import driven
from src.evaluation.probes.part import Probes
from src.evaluation.probes.verdicts import Thresholds, Verdict, listens, objects
from src.evaluation.statistics import wilson
from src.sim.collect import collect
from tests.evaluation.drivers import Blind, Clock, Clumsy, Deaf, Obedient
from tests.evaluation.probes.characters import Character, Known, bench, opened

RECORDED = ["other_instruction", "mirrored", "no_image", "other_image", "last_frame"]
EPISODES = 24


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drives of the expert, pushed about as in training."""
    out = tmp_path_factory.mktemp("drives")
    collect(out, suite="full1", episodes=EPISODES, image_size=16, workers=1, progress=False)
    return out


@pytest.fixture(scope="session")
def data(folder: Path) -> EpisodeDataModule:
    return opened(folder)


@pytest.fixture(scope="session")
def known(data: EpisodeDataModule) -> Known:
    return Known.of(data)


def judged(policy: Character, data: EpisodeDataModule, folder: Path) -> dict[str, Verdict]:
    part = Probes([], 0, 1, RECORDED, 40, 0, 0, 1, Thresholds())
    at = bench(policy, data, folder)
    return dict(part.verdict(part.measure(at), at))


@pytest.mark.parametrize(
    ("kind", "hears", "sees"),
    [
        ("sound", "yes", "yes"),
        ("deaf", "no", None),  # drives left always: whether the picture helps it is another matter
        ("average", "no", "yes"),
        ("blind", "yes", "no"),
        ("clock", "no", "no"),
    ],
)
def test_who_cannot_hear_or_see_is_caught_and_who_can_is_not_accused(
    kind: str, hears: str, sees: str | None, data: EpisodeDataModule, known: Known, tmp_path: Path
) -> None:
    verdicts = judged(Character(kind, known, noise=0.1), data, tmp_path)
    assert verdicts["listens"].answer == hears, verdicts["listens"].words
    assert verdicts["looks"].answer == sees or sees is None and verdicts["looks"].answer != "no", verdicts
    assert verdicts["objects"].answer == "not measured"


def test_a_clumsy_policy_with_large_errors_is_not_accused(
    data: EpisodeDataModule, known: Known, tmp_path: Path
) -> None:
    verdicts = judged(Character("sound", known, noise=0.5, clumsy=0.3), data, tmp_path)
    assert verdicts["listens"].answer == verdicts["looks"].answer == "yes", verdicts


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("episodes", [8, 40])
def test_study_of_recorded_verdicts(episodes: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """3 splits of 80 drives and 10 draws of noise each; `episodes` of them are scored."""
    out = tmp_path_factory.mktemp("study")
    collect(out, suite="full1", episodes=80, image_size=16, workers=1, progress=False)
    known = Known.of(opened(out))
    people = {
        "sound": {"kind": "sound", "noise": 0.1},
        "sound, large errors": {"kind": "sound", "noise": 0.5},
        "sound, heeds 70 %": {"kind": "sound", "noise": 0.3, "clumsy": 0.3},
        "deaf": {"kind": "deaf", "noise": 0.1},
        "average": {"kind": "average", "noise": 0.1},
        "blind": {"kind": "blind"},
        "clock": {"kind": "clock"},
    }
    counts: dict[str, Counter[str]] = {}
    data = opened(out, 0, episodes / 80)
    for seed in range(30):
        data = opened(out, seed // 10, episodes / 80) if seed % 10 == 0 else data
        for name, settings in people.items():
            verdicts = judged(Character(known=known, seed=seed, **settings), data, out)  # type: ignore[arg-type]
            for question in ("listens", "looks"):
                counts.setdefault(f"{name}: {question}", Counter())[verdicts[question].answer] += 1
    print(f"\n{episodes} episodes scored", *(f"{name} {dict(c)}" for name, c in counts.items()), sep="\n  ")
    for name, count in counts.items():
        who, question = name.split(": ")
        if who.startswith("sound"):
            assert not count["no"] and count["yes"] >= 27, (name, count)
        if question == "listens" and who in ("deaf", "average", "clock"):
            assert count["no"] == 30, (name, count)
        if question == "looks" and who in ("blind", "clock"):
            assert count["no"] == 30, (name, count)
        if question == "listens" and who == "blind" or question == "looks" and who == "average":
            assert not count["no"], (name, count)


# ---------------------------------------------------------------- in the simulator

TASKS = Suite("full1", "layout", 24).tasks()


def pairs(
    driver: Obedient | Clumsy, kinds: Sequence[str] = ("swapped",)
) -> tuple[list[Rollout], dict[str, list[Rollout]]]:
    changed = {kind: driven.probe_tasks(kind, TASKS) for kind in kinds}
    return drive(driver, TASKS, 16), {kind: drive(driver, tasks, 16) for kind, tasks in changed.items()}


def section(original: Sequence[Rollout], changed: dict[str, Sequence[Rollout]]) -> dict[str, object]:
    """As `Probes` writes it."""
    figures: dict[str, object] = {
        kind: driven.driven_figures(kind, original, rollouts) for kind, rollouts in changed.items()
    }
    figures["original"] = {"success": driven.success_figures(original, original)["success"]}
    return {
        "driven": figures
        | {"chance": driven.chances(original), "named_object": driven.object_figures(original)}
    }


@pytest.fixture(scope="module")
def demonstrations() -> list[Rollout]:
    return drive(ExpertController(), Suite("full1", "train", 20).tasks(), 16)


@pytest.fixture(scope="module")
def obedient() -> tuple[list[Rollout], dict[str, list[Rollout]]]:
    return pairs(Obedient())


@pytest.fixture(scope="module")
def deaf() -> tuple[list[Rollout], dict[str, list[Rollout]]]:
    return pairs(Deaf())


def test_drivers_are_judged_by_what_they_do(
    demonstrations: list[Rollout],
    obedient: tuple[list[Rollout], dict[str, list[Rollout]]],
    deaf: tuple[list[Rollout], dict[str, list[Rollout]]],
) -> None:
    people = {"obedient": obedient, "deaf": deaf, "clock": pairs(Clock(demonstrations))}
    people["blind"] = pairs(Blind(demonstrations))
    said = {name: listens(section(*drives), Thresholds()) for name, drives in people.items()}
    assert said["obedient"].answer == "yes" and said["deaf"].answer == said["clock"].answer == "no", said
    assert said["blind"].answer != "no", said  # it obeys, as far as one can without eyes
    tells = {name: objects(section(*drives)).answer for name, drives in people.items()}
    assert tells["obedient"] == "yes" and tells["deaf"] == "no" and tells["blind"] != "yes", tells
    assert tells["clock"] != "yes", tells


@pytest.mark.parametrize("sideways", [0.05, 0.1, 0.2, 0.3, 0.5])
def test_who_listens_and_drives_badly_is_not_called_deaf(sideways: float) -> None:
    """A box that it runs into says nothing about what it heard."""
    original, swapped = pairs(Clumsy(sideways))
    found: dict[str, Any] = section(original, {**swapped})
    passed, changed = (found["driven"]["swapped"][key] for key in ("passed", "changed"))
    assert passed.n == len(TASKS) and changed.n == round(passed.value * passed.n)
    said = listens(found, Thresholds())
    if sideways == 0.5:
        assert said.answer == "yes" and changed.value == 1, said.words
        return
    assert passed.value < 0.5, "or it drives well"
    assert said.answer == "not decided" and f"boxes in {changed.n} of 24 pairs" in said.words
    for flips, answer in ((40, "yes"), (0, "no"), (20, "not decided")):
        heard = listens({**found, "recorded": {"mirrored": {"flip": wilson(flips, 40)}}}, Thresholds())
        assert heard.answer == answer and f"recorded frames say {answer}" in heard.words, heard.words


def test_who_is_deaf_and_drives_badly_is_caught_by_its_commands() -> None:
    original, changed = pairs(Clumsy(0.0))
    found: dict[str, Any] = section(original, {**changed})
    said = listens(found, Thresholds())
    assert found["driven"]["swapped"]["changed"].n < 6, "or the case shows nothing"
    assert said.answer == "no" and "changes not one command in 100 % (n=24" in said.words
    few = section(original[:3], {"swapped": changed["swapped"][:3]})
    assert listens(few, Thresholds()).answer == "not decided"


def mixture(
    obeys: float,
    n: int,
    obedient: tuple[list[Rollout], dict[str, list[Rollout]]],
    deaf: tuple[list[Rollout], dict[str, list[Rollout]]],
    draws: int,
) -> Counter[str]:
    """Verdicts on a driver that heeds the words in the share `obeys` of rooms, over `draws` redraws of n rooms."""
    rng = np.random.default_rng(0)
    out: Counter[str] = Counter()
    for _ in range(draws):
        rooms = rng.integers(0, len(TASKS), n)
        heeds = rng.random(n) < obeys
        who = [(obedient if h else deaf, room) for h, room in zip(heeds, rooms, strict=True)]
        original = [drives[0][room] for drives, room in who]
        changed = [drives[1]["swapped"][room] for drives, room in who]
        out[listens(section(original, {"swapped": changed}), Thresholds()).answer] += 1
    return out


def test_a_driver_that_mostly_listens_is_not_accused_and_luck_does_not_clear_a_deaf_one(
    obedient: tuple[list[Rollout], dict[str, list[Rollout]]],
    deaf: tuple[list[Rollout], dict[str, list[Rollout]]],
) -> None:
    assert not mixture(0.8, 30, obedient, deaf, 100)["no"]
    assert not mixture(0.1, 30, obedient, deaf, 100)["yes"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_study_of_driven_verdicts(
    obedient: tuple[list[Rollout], dict[str, list[Rollout]]],
    deaf: tuple[list[Rollout], dict[str, list[Rollout]]],
) -> None:
    """300 redraws per cell: obeying shares × pairs driven."""
    counts = {
        (obeys, n): mixture(obeys, n, obedient, deaf, 300)
        for obeys in (1.0, 0.9, 0.8, 0.7, 0.3, 0.1, 0.0)
        for n in (16, 30, 100)
    }
    print("", *(f"heeds {o:.0%}, {n} pairs: {dict(c)}" for (o, n), c in counts.items()), sep="\n  ")
    for (obeys, n), count in counts.items():
        if obeys >= 0.7:
            assert count["no"] <= 3, (obeys, n, count)
        if obeys <= 0.3:
            assert count["yes"] <= 3, (obeys, n, count)
    assert counts[1.0, 16]["yes"] == counts[0.0, 16]["no"] == 300
