"""Findings about instructions and whether the picture already tells them; the classifier against a slow reference."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml

from src.data.check import confounding, instructions
from src.data.check.confounding import leave_group_out, measure, shuffles
from src.data.check.instructions import meanings
from src.data.check.motions import motion_by_motion
from src.data.check.runner import WORD_CHECKS, check
from src.data.episode import Episode, open_episode
from src.data.instruction import FromFile, ScenarioMap
from src.data.lab_keys import KEYS
from src.data.layouts import LabOptions
from src.data.split import SplitRule
from src.sim.instructions import corpus
from tests.data.builders import SPACE, write_lab_file
from tests.data.check.folders import STOP, actions, ask, drive, gather, sound

ROOT = Path(__file__).resolve().parents[3]
AHEAD, LEFT, RIGHT = (1.0, 0, 0), (0, 1.0, 0), (0, -1.0, 0)


def test_sound_instructions_raise_nothing(tmp_path: Path) -> None:
    facts = gather(tmp_path, sound(40), frames=1)
    assert measure(facts) is not None
    assert [f.code for checker in WORD_CHECKS for f in checker(facts)] == []


def test_a_missing_sentence_is_one_that_neither_the_file_nor_the_map_has(tmp_path: Path) -> None:
    """Real files of the lab, one of them with a sentence; what is left out keeps the order of the others."""
    files = []
    for i, side in enumerate(["left", "right", "left", "right"]):
        frames = np.random.default_rng(i).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        path = tmp_path / f"episode_2026012{i}_010422_1box_hori_{side}_core.h5"
        files.append(open_episode(write_lab_file(path, frames, text="Go there." if i == 1 else None)))
    left = {"1box_hori_left": "Pass on the left."}
    for source, kept in (
        (FromFile(), [1]),
        (ScenarioMap("mine.yaml", left), [0, 2]),
        (ScenarioMap("mine.yaml", left, prefer_file=True), [0, 1, 2]),
        (ScenarioMap("mine.yaml", {**left, "1box_hori_right": "Pass on the right."}), [0, 1, 2, 3]),
    ):
        found, findings = instructions.with_sentences(files, source)
        assert found == [files[i] for i in kept]
        missing = [files[i].path for i in range(4) if i not in kept]
        assert [path for finding in findings for path in finding.files] == missing
        assert all((f.code, f.severity, f.spoils) == ("missing_instruction", "error", True) for f in findings)
        assert len(findings) == bool(missing)
        if len(missing) > 1:
            assert f"{len(missing)} of 4 files have no instruction" in findings[0].reason


def test_the_whole_check_names_files_without_a_sentence(tmp_path: Path) -> None:
    for i, side in enumerate(["left", "right", "left", "right"]):
        frames = np.random.default_rng(i).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        moves = actions(AHEAD, LEFT if side == "left" else RIGHT, (0.1 * i, 0, 0))
        write_lab_file(tmp_path / f"episode_2026012{i}_010422_1box_hori_{side}_core.h5", frames, moves)
    data = SimpleNamespace(
        root=tmp_path, action_space=SPACE, lab=LabOptions(), split_rule=SplitRule(),
        allow_mixed_sizes=False, on_bad_files="error",
        instruction=ScenarioMap("mine.yaml", {"1box_hori_left": "Pass on the left."}),
    )  # fmt: skip
    outcome = check(cast(Any, data), out=str(tmp_path / "out"), workers=1, progress=False)
    found = {finding.code: finding for finding in outcome.findings}["missing_instruction"]
    assert found.severity == "error" and [path.name[15:16] for path in found.files] == ["1", "3"]
    assert "2 of 4 files cannot be used, the first: mine.yaml has no entry for" in found.reason


def test_one_sentence_for_all(tmp_path: Path) -> None:
    facts = gather(tmp_path, [drive(f"e{i}", instructions=("go", "drive")) for i in range(6)])
    assert "'go'" in ask(instructions.constant_instruction, facts)["constant_instruction"].reason
    assert not ask(instructions.one_phrasing, facts)


def test_one_wording_per_task(tmp_path: Path) -> None:
    facts = gather(tmp_path, [drive(f"e{i}", instructions=(f"go to {'ab'[i % 2]}",)) for i in range(6)])
    assert "each of the 2 instructions" in ask(instructions.one_phrasing, facts)["one_phrasing"].reason
    assert not ask(instructions.constant_instruction, facts)


def test_episodes_that_share_a_phrasing_mean_the_same(tmp_path: Path) -> None:
    texts = [("a", "b"), ("b", "c"), ("d",), ("c",)]
    found = meanings(gather(tmp_path, [drive(f"e{i}", instructions=t) for i, t in enumerate(texts)]))
    assert found[0] == found[1] == found[3] != found[2]


@pytest.mark.parametrize(
    ("text", "driven", "leaks"),
    [
        ("forward, forward, left, forward", [], True),
        ("press w w q then stop", [], True),
        ("W,A,D", [], True),
        ("drive 1.15 m/s", [], True),
        ("go forward for 3 steps", [], True),
        ("set angular_z", [], True),
        ("직진, 왼쪽, 직진, 정지", [], True),
        ("go forward then left then stop", ["forward", "left", "stop"], True),
        ("go forward then left", ["left", "forward"], True),
        ("Action: forward_left. Go to the basket", [], True),
        ("forward-left to the basket", [], True),
        ("Command = LEFT; basket", [], True),
        ("go to the basket by moving left then straight", [], True),
        ("앞으로 왼쪽 이동 후 정지", [], True),
        ("바구니까지 왼쪽으로 가다가 직진해서 가세요", [], True),
        ("전진하고 좌회전하세요", [], True),
        ("turn left", [], True),
        ("pass the box on the left, then straight to the ball", [], False),
        ("pass the box on the left, then stop", [], False),
        ("go back to the left box", [], False),
        ("go to the back left corner", [], False),
        ("the basket is left of the action figure", [], False),
        ("바구니 왼쪽 앞으로 가세요", [], False),
        ("세워진 상자를 왼쪽으로 피해 목표 지점 앞까지 이동하세요", [], False),
        ("pass the box on the left and go to the red ball", ["forward", "left"], False),
        ("Drive past the box on its left side and stop at the target.", ["forward_left", "forward", "stop"], False),
        ("take a turn around the chair", ["rotate_left"], False),
        ("상자 왼쪽으로 지나 목표로 가세요", ["left"], False),
    ],
)  # fmt: skip
def test_sentences_that_spell_out_the_motions(text: str, driven: list[str], leaks: bool) -> None:
    assert motion_by_motion(text, driven, KEYS.class_names) is leaks


def _shipped() -> list[str]:
    """All sentences of conf/data/instruction/*.yaml."""
    found: list[str] = []
    for path in sorted((ROOT / "conf/data/instruction").glob("*.yaml")):
        for texts in (yaml.safe_load(path.read_text(encoding="utf-8")).get("scenarios") or {}).values():
            found += [texts] if isinstance(texts, str) else texts
    return found


def test_no_sentence_of_the_project_is_taken_for_a_drive() -> None:
    """Whatever is driven: a drive of one direction, of two, and each with a stop."""
    texts = [*_shipped(), *(t for t in corpus() if "red ball" in t or "빨간 공" in t)]
    assert len(texts) > 300
    drives = [[], ["forward"], ["left", "stop"], ["forward", "forward_left", "forward", "stop"], ["stop"]]
    wrong = [t for t in texts if any(motion_by_motion(t, d, KEYS.class_names) for d in drives)]
    assert wrong == []


def test_leaking_sentences_name_their_files(tmp_path: Path) -> None:
    leaky = drive("leaky", 3, actions=actions(AHEAD, LEFT, STOP), instructions=("forward, left, stop",))
    facts = gather(tmp_path, [drive("fine"), leaky])
    found = ask(instructions.leaking_words, facts)["instruction_spells_actions"]
    assert [p.name for p in found.files] == ["001-leaky.h5"] and "'forward, left, stop'" in found.reason


def test_a_sentence_that_settles_the_actions(tmp_path: Path) -> None:
    """Two sentences, two sequences: reading and counting is enough."""
    rows = {"left": (AHEAD, LEFT, AHEAD, STOP), "ahead": (LEFT, AHEAD, LEFT, STOP)}
    made = [
        drive(f"e{i}", 4, actions=actions(*rows[word]), instructions=(f"towards {word}",))
        for i, word in enumerate(["left", "ahead"] * 5)
    ]
    found = ask(instructions.instruction_gives_actions, gather(tmp_path, made))["instruction_gives_actions"]
    assert "100.0 % of all actions" in found.reason


def _scene(name: str, side: str, bright: str, **changes: object) -> Episode:
    """Noise with a bright half: the picture tells `bright`, the sentence `side`."""
    episode = drive(name, 4, size=16, instructions=(f"pass on the {side}", f"keep {side}"), **changes)
    episode.frames[:] //= 4
    half = slice(0, 8) if bright == "left" else slice(8, 16)
    episode.frames[:, :, half] += 150
    return episode


def test_an_instruction_that_the_picture_tells(tmp_path: Path) -> None:
    sides = ["left", "right"] * 15
    facts = gather(tmp_path, [_scene(f"e{i}", s, s) for i, s in enumerate(sides)], frames=1)
    found = ask(confounding.instruction_in_picture, facts)["instruction_in_picture"]
    assert (
        found.severity == "warning"
        and "in 100.0 % of 30 episodes" in found.reason
        and "'left'" in found.reason
    )


def test_the_same_scenes_under_both_instructions_are_no_finding(tmp_path: Path) -> None:
    """The picture says left or right, the sentence says so too, independently."""
    rng = np.random.default_rng(1)
    sides = rng.choice(["left", "right"], 40)
    made = [_scene(f"e{i}", s, ["left", "right"][i % 2]) for i, s in enumerate(sides)]
    facts = gather(tmp_path, made, frames=1)
    assert not ask(confounding.instruction_in_picture, facts)
    found = measure(facts)
    assert found is not None and found.instruction.p > 0.01


def test_an_object_in_view_is_a_note(tmp_path: Path) -> None:
    """The picture tells the object, not the side: nothing is wrong, and it is said."""
    rng = np.random.default_rng(2)
    made = []
    for i in range(48):
        episode = _scene(f"e{i}", rng.choice(["left", "right"]), ["left", "right"][i % 2])
        thing = ["ball", "cube"][i % 2]
        episode.instructions = tuple(f"{text} to the {thing}" for text in episode.instructions)
        made.append(episode)
    found = ask(confounding.instruction_in_picture, gather(tmp_path, made, frames=1))
    assert set(found) == {"words_in_picture"} and "'ball'" in found["words_in_picture"].reason


def test_near_duplicates_of_one_group_do_not_answer_for_each_other(tmp_path: Path) -> None:
    """Pairs of equal pictures with equal sentences: readable only if the twin could be asked."""
    rng = np.random.default_rng(3)
    made = []
    for i in range(30):
        side = str(rng.choice(["left", "right"]))
        one = drive(f"e{i}", 4, size=16, instructions=(f"pass on the {side}",), group=f"g{i}")
        two = drive(f"f{i}", 4, size=16, instructions=one.instructions, group=f"g{i}", frames=one.frames)
        made += [one, two]
    together = measure(gather(tmp_path / "together", made, frames=1))
    for i, episode in enumerate(made):
        episode.group = f"alone{i}"
    apart = measure(gather(tmp_path / "apart", made, frames=1))
    assert together is not None and apart is not None
    assert together.instruction.p > 0.01 and apart.instruction.accuracy > 0.95


def test_too_few_episodes_are_not_judged(tmp_path: Path) -> None:
    facts = gather(tmp_path, [_scene(f"e{i}", "left", "left") for i in range(19)], frames=1)
    assert measure(facts) is None


def test_leaving_a_group_out_equals_fitting_without_it() -> None:
    """The closed form against kernel ridge regression fitted once per group, with the same kernel."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 40, (12, 5)), rng.normal(size=12)
    groups = ["a", "a", "b", "c", "c", "c", "d", "e", "f", "g", "g", "h"]
    predicted = leave_group_out(x, groups) @ y
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    distance = ((z[:, None] - z[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-distance / np.median(distance))
    for group in set(groups):
        out = np.array([g == group for g in groups])
        inside = kernel[np.ix_(~out, ~out)]
        weights = np.linalg.solve(inside + 0.1 * np.eye(len(inside)), y[~out])
        np.testing.assert_allclose(predicted[out], kernel[np.ix_(out, ~out)] @ weights, atol=1e-9)


def test_shuffles_exchange_whole_groups_of_one_size() -> None:
    groups = ["a", "a", "b", "b", "c", "d"]
    for order in shuffles(groups, 20):
        assert sorted(order) == list(range(6))
        assert order[1] == order[0] + 1 and order[3] == order[2] + 1 and set(order[4:]) == {4, 5}
    assert any((order != np.arange(6)).any() for order in shuffles(groups, 20))


def test_a_scenario_that_tells_the_path(tmp_path: Path) -> None:
    def made(i: int, word: str, scenario: str) -> Episode:
        return drive(
            f"e{i}", 3, scenario=scenario, actions=actions(AHEAD, LEFT if word == "left" else RIGHT, AHEAD)
        )

    words = ["left", "right"] * 6
    told = gather(tmp_path / "told", [made(i, w, w) for i, w in enumerate(words)])
    assert "100.0 %" in ask(confounding.path_from_scenario, told)["path_from_scenario"].reason
    both = gather(tmp_path / "both", [made(i, w, f"s{i // 2 % 2}") for i, w in enumerate(words)])
    assert not ask(confounding.path_from_scenario, both)
