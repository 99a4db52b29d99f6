"""Where sentences come from, what is held out, and what is said when a sentence is missing."""

import itertools
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.data.augment import Augmentation
from src.data.check.instructions import motion_by_motion
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.instruction import EVALUATE_ON, FromFile, InstructionSource, ScenarioMap
from src.data.lab_hdf5 import LabKeyLayout, LabPathLayout
from src.data.layouts import LabOptions
from src.data.mirror import mirror_text
from src.data.split import SPLITS
from tests.data.builders import make_episode, write_lab_file, write_lab_v5, write_lab_v6
from tests.data.modules import detokenize, make_module

ORIGIN = "conf/data/instruction/mine.yaml"
MAP = {
    "left": ["keep left", "the left way", "to the left side", "leftwards"],
    "right": ["keep right", "the right way", "to the right side", "rightwards"],
}


def written(root: Path, count: int = 8, **changes: Any) -> list[EpisodeFile]:
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        side = ("left", "right")[i % 2]
        episode = make_episode(f"e{i}", 4, **{"scenario": side, **changes})
        write_episode(root / f"e{i}.h5", episode)
    return [open_episode(root / f"e{i}.h5") for i in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[EpisodeFile]:
    return written(tmp_path_factory.mktemp("words"))


def texts_of(module: EpisodeDataModule, split: str, epochs: int = 1) -> set[str]:
    loader = {"train": module.train_dataloader, "val": module.val_dataloader, "test": module.test_dataloader}
    made = loader[split]()
    found = set()
    for epoch in range(epochs):
        made.set_epoch(epoch)
        for batch in made:
            rows = zip(batch.instruction_ids, batch.instruction_mask, strict=True)
            found |= {detokenize(ids, mask) for ids, mask in rows}
    return found


def test_the_file_s_own_sentences_are_the_default(files: list[EpisodeFile]) -> None:
    source = FromFile()
    for file in files:
        assert source.phrasings(file, "train") == file.instructions
        assert source.phrasings(file, "val") == source.phrasings(file, "test") == file.instructions[:1]


def test_a_map_replaces_what_the_files_hold_or_fills_in(files: list[EpisodeFile]) -> None:
    assert ScenarioMap(ORIGIN, MAP).phrasings(files[1], "train") == tuple(MAP["right"])
    assert ScenarioMap(ORIGIN, {"right": "one sentence"}).wordings(files[1]) == ("one sentence",)
    assert ScenarioMap(ORIGIN, MAP, prefer_file=True).wordings(files[1]) == files[1].instructions


@pytest.mark.parametrize("source", [ScenarioMap(ORIGIN, {"right": "go"}), ScenarioMap(ORIGIN, {})])
def test_a_scenario_without_an_entry_names_scenario_file_and_yaml(
    files: list[EpisodeFile], source: InstructionSource
) -> None:
    with pytest.raises(ProjectError) as caught:
        source.phrasings(files[0], "train")
    for part in (ORIGIN, "'left'", "e0.h5", "data.instruction.scenarios"):
        assert part in str(caught.value)
    assert str(caught.value).count(". ") == 0  # one sentence


@settings(max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    held_out=st.integers(0, 6),
    evaluate_on=st.sampled_from(["canonical", "held_out"]),
)
def test_what_is_held_out_is_never_trained_on(
    files: list[EpisodeFile], sizes: tuple[int, int], held_out: int, evaluate_on: str
) -> None:
    table = {
        side: [f"{side} {i}" for i in range(n)] for side, n in zip(("left", "right"), sizes, strict=True)
    }
    if evaluate_on == "held_out" and not held_out:
        with pytest.raises(ProjectError, match="holds out nothing"):
            ScenarioMap(ORIGIN, table, held_out, evaluate_on)
        return
    source = ScenarioMap(ORIGIN, table, held_out, evaluate_on)
    for file in files:
        if held_out >= len(table[file.scenario]):
            with pytest.raises(ProjectError, match=f"holds out all {len(table[file.scenario])} phrasings"):
                source.phrasings(file, "train")
            continue
        train, shown = source.phrasings(file, "train"), source.phrasings(file, "val")
        assert train == tuple(table[file.scenario][: len(table[file.scenario]) - held_out])
        assert len(shown) == 1
        assert set(shown) <= set(source.wordings(file))
        if evaluate_on == "canonical":
            assert shown == train[:1]
        else:
            assert not set(shown) & set(train)
            assert source.phrasings(file, "test") == shown  # always the same one


def test_held_out_phrasings_are_spread_over_the_episodes(tmp_path: Path) -> None:
    source = ScenarioMap(ORIGIN, MAP, 2, "held_out")
    shown = {source.phrasings(file, "val")[0] for file in written(tmp_path, 24)}
    assert shown == {text for texts in MAP.values() for text in texts[2:]}


def test_patterns_hold_out_the_same_wording_whatever_its_place_in_the_file(tmp_path: Path) -> None:
    said = ("go to the {}", "drive to the {}", "find the {}")
    for i in range(12):
        texts = [text.format(("ball", "can")[i % 2]) for text in said[i % 3 :] + said[: i % 3]]
        write_episode(tmp_path / f"e{i:02}.h5", make_episode(f"e{i:02}", 4, instructions=tuple(texts)))
    source = FromFile(["find the *"], "held_out")
    module = make_module(tmp_path, instruction=source, paraphrase="random")
    module.setup()
    trained = texts_of(module, "train", epochs=12)
    shown = texts_of(module, "val") | texts_of(module, "test")
    assert {text.rsplit(" ", 1)[0] for text in trained} == {"go to the", "drive to the"}
    assert {text.rsplit(" ", 1)[0] for text in shown} == {"find the"}
    with pytest.raises(ProjectError, match=r"pattern 'seek \*', which matches none of the 6 sentences"):
        make_module(tmp_path, instruction=FromFile(["seek *"])).setup()


def test_an_episode_without_held_out_wording_is_named(files: list[EpisodeFile]) -> None:
    source = FromFile(["go to e3"], "held_out")
    assert source.phrasings(files[3], "val") == ("go to e3",)
    with pytest.raises(ProjectError, match=r"matches no phrasing that the episode file has.*e0\.h5"):
        source.phrasings(files[0], "val")


def test_a_held_out_sentence_that_another_scenario_trains_on_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 16)
    shared = {"left": ["keep left", "around the box"], "right": ["around the box", "keep right"]}
    for evaluate_on in EVALUATE_ON:  # an evaluation on the held-out wording may come later
        with pytest.raises(
            ProjectError, match=r"both trained on and held out, e.g. 'around the box' .*by scenario 'left'"
        ):
            make_module(tmp_path, instruction=ScenarioMap(ORIGIN, shared, 1, evaluate_on)).setup()


def test_mirrored_wording_counts_as_trained_on(tmp_path: Path) -> None:
    written(tmp_path, 16)
    crossed = {"left": ["keep left", "the left way"], "right": ["the right way", "keep right"]}
    for evaluate_on in EVALUATE_ON:
        source = ScenarioMap(ORIGIN, crossed, 1, evaluate_on)
        make_module(tmp_path, instruction=source).setup()
        with pytest.raises(ProjectError, match="mirrored wording included"):
            make_module(tmp_path, instruction=source, augmentation=Augmentation(mirror=0.5)).setup()
    apart = ScenarioMap(ORIGIN, MAP, 1)  # the same wording is held out on both sides
    make_module(tmp_path, instruction=apart, augmentation=Augmentation(mirror=0.5)).setup()


def test_a_pattern_that_mirrored_words_match_is_refused(tmp_path: Path) -> None:
    written(tmp_path, 16)
    sides = {"left": ["keep left", "pass it on the left"], "right": ["keep right", "pass it on the right"]}
    one, both = (ScenarioMap(ORIGIN, sides, [f"pass it on the {word}"]) for word in ("left", "*"))
    mirror = Augmentation(mirror=0.5)
    for source, augmentation in ((one, None), (both, mirror)):
        make_module(tmp_path, instruction=source, augmentation=augmentation, paraphrase="random").setup()
    with pytest.raises(
        ProjectError, match="e.g. 'pass it on the left' .*held out by pattern 'pass it on the left'"
    ):
        make_module(tmp_path, instruction=one, augmentation=mirror, paraphrase="random").setup()


def test_what_training_used_is_in_the_manifest_and_in_the_episodes(tmp_path: Path) -> None:
    written(tmp_path, 16)
    module = make_module(
        tmp_path, instruction=ScenarioMap(ORIGIN, MAP, 1, "held_out"), paraphrase="random",
        augmentation=Augmentation(shift=1, mirror=0.5),
    )  # fmt: skip
    module.setup()
    manifest = module.manifest()
    assert json.loads(json.dumps(manifest)) == manifest
    facts = manifest["instruction"]
    assert (facts["source"], facts["held_out"], facts["evaluate_on"], facts["paraphrase"]) == (
        ORIGIN, 1, "held_out", "random",
    )  # fmt: skip
    seen = texts_of(module, "train", epochs=30)
    assert seen == set(facts["train"]["first"])
    assert facts["train"]["sentences"] == 6
    assert seen == {text for texts in MAP.values() for text in texts[:3]}
    assert texts_of(module, "val") == set(facts["val"]["first"]) <= {"leftwards", "rightwards"}
    assert manifest["augmentation"]["mirror"] == 0.5
    for episode in module.episodes("val"):
        assert episode.instructions == (MAP[episode.scenario][3], *MAP[episode.scenario][:3])
    for count, same in ((3, True), (2, False)):
        fewer = ScenarioMap(ORIGIN, {side: texts[:count] for side, texts in MAP.items()})
        module = make_module(tmp_path, instruction=fewer, paraphrase="random")
        module.setup()
        assert (module.manifest()["instruction"]["train"]["hash"] == facts["train"]["hash"]) is same


def test_a_run_that_takes_the_first_phrasing_records_no_other(tmp_path: Path) -> None:
    written(tmp_path, 16)
    module = make_module(tmp_path, instruction=ScenarioMap(ORIGIN, MAP))
    module.setup()
    assert module.manifest()["instruction"]["train"]["first"] == ["keep left", "keep right"]
    assert texts_of(module, "train", epochs=4) == {"keep left", "keep right"}
    assert set(module.episodes("train")[0].instructions) in (set(MAP["left"]), set(MAP["right"]))


def test_the_hash_of_the_words_knows_who_is_told_what(tmp_path: Path) -> None:
    """The same sentences for other episodes, another first one, or one more: all are other words."""
    sides = {"left": ["a", "b"], "right": ["c", "d"]}

    def words(source: InstructionSource, paraphrase: str = "random") -> str:
        module = make_module(tmp_path, instruction=source, paraphrase=paraphrase)
        module.setup()
        found: str = module.manifest()["instruction"]["hash"]
        return found

    written(tmp_path, 16)
    first = words(ScenarioMap(ORIGIN, sides))
    assert first == words(ScenarioMap("another file", sides))
    others = [
        words(ScenarioMap(ORIGIN, {"left": sides["right"], "right": sides["left"]})),
        words(ScenarioMap(ORIGIN, {**sides, "left": ["b", "a"]})),
        words(ScenarioMap(ORIGIN, {**sides, "left": ["a", "b", "e"]})),
        words(ScenarioMap(ORIGIN, sides), "first"),
        words(FromFile()),
    ]
    assert len({first, *others}) == 6


# ---------------------------------------------------------------- files with and without a sentence


def lab_folder(root: Path, own: Sequence[int] = (), count: int = 8) -> Path:
    """Files of the lab's layout V1-V4; those numbered `own` hold a sentence."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        name = f"episode_2026012{i}_010422_1box_hori_{('left', 'right')[i % 2]}_core_far.h5"
        frames = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        write_lab_file(root / name, frames, text=f"Own words {i}." if i in own else None)
    return root


BOXES = {"1box_hori_left": "Pass on the left.", "1box_hori_right": "Pass on the right."}


@pytest.mark.parametrize(("prefer_file", "own_words"), [(True, 2), (False, 0)])
def test_a_map_fills_in_what_files_do_not_say(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefer_file: bool, own_words: int
) -> None:
    source = ScenarioMap(ORIGIN, BOXES, prefer_file=prefer_file)
    module = make_module(lab_folder(tmp_path, own=(0, 5)), instruction=source, lab=LabOptions())
    with caplog.at_level(logging.INFO):
        module.setup()
    facts = module.manifest()["instruction"]
    assert facts["episodes_worded_by_file"] == own_words
    assert f"{own_words} of 8 episodes have the words of their file" in caplog.text
    told = {e.id: e.instructions for name in SPLITS for e in module.episodes(name)}
    for number, name in enumerate(sorted(told)):
        own = number in (0, 5) and prefer_file
        assert told[name] == ((f"Own words {number}.",) if own else (BOXES[name[24:39].strip("_")],))


def test_missing_sentences_stop_a_run_before_its_split_is_written(tmp_path: Path) -> None:
    module = make_module(lab_folder(tmp_path, own=(0, 5)), lab=LabOptions())
    with pytest.raises(ProjectError, match="6 of 8 files have no instruction, the first: .*lab_en") as caught:
        module.setup()
    assert "\n" not in str(caught.value) and "and 1 more" in str(caught.value)
    half = ScenarioMap(ORIGIN, {"1box_hori_left": "Pass on the left."}, prefer_file=True)
    with pytest.raises(ProjectError, match="3 of 8 files .*'1box_hori_right'.*data.instruction.scenarios"):
        make_module(tmp_path, instruction=half, lab=LabOptions()).setup()
    assert not list(tmp_path.glob("*.json"))


def test_files_without_a_sentence_can_be_left_out(tmp_path: Path) -> None:
    lab_folder(tmp_path, own=(0, 1, 2, 3, 5))
    module = make_module(tmp_path, lab=LabOptions(), on_bad_files="skip")
    module.setup()
    assert [Path(entry["file"]).name[8:16] for entry in module.manifest()["left_out"]] == [
        "20260124",
        "20260126",
        "20260127",
    ]
    assert sum(len(module.episodes(name)) for name in SPLITS) == 5
    with pytest.raises(ProjectError, match="2 of 2 files have no instruction"):
        make_module(lab_folder(tmp_path / "mute", count=2), lab=LabOptions(), on_bad_files="skip").setup()


def test_a_number_counts_no_sentences_of_files(files: list[EpisodeFile]) -> None:
    """They may stand in any order there, so what is held out of one would be trained on in the next."""
    with pytest.raises(ProjectError, match="held_out=1 counts phrasings of .*e1.h5.*give patterns"):
        ScenarioMap(ORIGIN, MAP, 1, prefer_file=True).phrasings(files[1], "train")
    assert (
        ScenarioMap(ORIGIN, MAP, ["go to *"], prefer_file=True).phrasings(files[1], "train")
        == files[1].instructions[1:]
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScenarioMap(ORIGIN, MAP, -1), r"data\.instruction\.held_out is -1"),
        (lambda: ScenarioMap(ORIGIN, MAP, 1, "sometimes"), r"data\.instruction\.evaluate_on is 'sometimes'"),
        (lambda: ScenarioMap(ORIGIN, {"left": []}), rf"{ORIGIN}: data\.instruction\.scenarios\.left is \[\]"),
        (lambda: ScenarioMap(ORIGIN, {"left": ["go", " "]}), r"scenarios\.left"),
        (lambda: ScenarioMap(ORIGIN, {"left": ["go", "go"]}), "list of different sentences"),
        (lambda: FromFile([], "held_out"), "holds out nothing"),
    ],
)
def test_impossible_settings_name_their_key(make: Any, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        make()


SCENARIOS = sorted(
    "_".join(words)
    for described in (LabKeyLayout.described, LabPathLayout.described)
    for words in itertools.product(*(part.split("|") for part in re.findall(r"\(([^)]+)\)", described)))
)
"""All that the names of V1 to V5 can say; V6 says <place>_<path> in the words of V5."""
LEAKS = (
    "forward", "straight", "turn", "rotat", "speed", "m/s", "second", "stop mov",
    "전진", "직진", "회전", "속도", "초",
)  # fmt: skip


def the_map(language: str) -> dict[str, list[str]]:
    config = OmegaConf.load(f"conf/data/instruction/lab_{language}.yaml")
    assert config.origin == f"conf/data/instruction/lab_{language}.yaml"
    return OmegaConf.to_container(config.scenarios)  # type: ignore[return-value]


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_scenario_of_the_lab_s_layouts_has_sentences(language: str, tmp_path: Path) -> None:
    """Real files of all six layouts, one per scenario; only "unknown" has none, for nobody knows what to say."""
    found = the_map(language)
    assert len(SCENARIOS) == 8 + 9
    assert sorted(found) == SCENARIOS
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    source = ScenarioMap("a.yaml", found)
    for scenario in SCENARIOS:
        if "box" in scenario:
            paths = [write_lab_file(tmp_path / f"episode_{scenario}_core_far.h5", frames)]
        else:
            place, route = scenario.split("_")
            paths = [
                write_lab_v5(tmp_path / f"episode_target_{scenario}_path__core__far.h5", frames),
                write_lab_v6(tmp_path / f"{scenario}.h5", frames, position=place, route=route),
            ]
        for path in paths:
            episode = open_episode(path)
            assert episode.scenario == scenario
            assert source.wordings(episode) == tuple(found[scenario])
    nameless = open_episode(paths[0], LabOptions(scenario_from="none"))
    with pytest.raises(ProjectError, match="no entry for scenario 'unknown'"):
        source.wordings(nameless)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_lab_s_maps_say_where_to_go_and_never_how_to_drive(language: str) -> None:
    found = the_map(language)
    left, right = {"en": ("left", "right"), "ko": ("왼", "오른")}[language]
    texts = [text for phrasings in found.values() for text in phrasings]
    assert {len(phrasings) for phrasings in found.values()} == {8}
    assert len(texts) == len(set(texts))
    for scenario, phrasings in found.items():
        for text in phrasings:
            plain = text.replace("upright", "")
            assert plain.count(left) == scenario.count("left")
            assert plain.count(right) == scenario.count("right")
    for text in texts:
        assert not [word for word in LEAKS if word in text.lower()]
        assert not any(map(str.isdigit, text))
        assert not motion_by_motion(text, ["forward", "stop"])


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_lab_s_maps_are_their_own_mirror_image(language: str) -> None:
    """So a mirrored picture is never told something that no recorded one is told (data.augmentation.mirror)."""
    found = the_map(language)
    exchanged = {"left": "right", "right": "left"}
    for scenario, phrasings in found.items():
        other = "_".join(exchanged.get(word, word) for word in scenario.split("_"))
        assert [mirror_text(text) for text in phrasings] == found[other]
