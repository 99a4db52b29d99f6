"""Where sentences come from, what is held out, and what is said when a sentence is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.data.augment import Augmentation
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.instruction import FromFile, InstructionSource, ScenarioMap
from tests.data.builders import make_episode
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
    with pytest.raises(ProjectError, match=r"both trained on and evaluated on, e.g. 'around the box'"):
        make_module(tmp_path, instruction=ScenarioMap(ORIGIN, shared, 1, "held_out")).setup()
    make_module(tmp_path, instruction=ScenarioMap(ORIGIN, shared, 1)).setup()  # nothing is claimed then


def test_mirrored_wording_counts_as_trained_on(tmp_path: Path) -> None:
    written(tmp_path, 16)
    crossed = {"left": ["keep left", "the left way"], "right": ["the right way", "keep right"]}
    source = ScenarioMap(ORIGIN, crossed, 1, "held_out")
    make_module(tmp_path, instruction=source).setup()
    with pytest.raises(ProjectError, match="mirrored wording included"):
        make_module(tmp_path, instruction=source, augmentation=Augmentation(mirror=0.5)).setup()


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
    fewer = make_module(tmp_path, instruction=ScenarioMap(ORIGIN, {k: v[:3] for k, v in MAP.items()}))
    fewer.setup()
    assert fewer.manifest()["instruction"]["train"]["hash"] == facts["train"]["hash"]
    fewer = make_module(tmp_path, instruction=ScenarioMap(ORIGIN, {k: v[:2] for k, v in MAP.items()}))
    fewer.setup()
    assert fewer.manifest()["instruction"]["train"]["hash"] != facts["train"]["hash"]


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


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_lab_s_maps_say_where_to_go_and_never_how_to_drive(language: str) -> None:
    path = f"conf/data/instruction/lab_{language}.yaml"
    config = OmegaConf.load(path)
    assert config.origin == path
    sides = {"en": ("left", "right"), "ko": ("왼", "오른")}[language]
    scenarios = {
        f"{b}_{w}_{s}" for b in ("1box", "2box") for w in ("hori", "vert") for s in ("left", "right")
    }
    assert set(config.scenarios) == scenarios
    texts = [text for phrasings in config.scenarios.values() for text in phrasings]
    assert len(texts) == len(set(texts)) == 64
    for scenario, phrasings in config.scenarios.items():
        this, other = sides if str(scenario).endswith("left") else sides[::-1]
        plain = [text.replace("upright", "") for text in phrasings]
        assert all(this in text and other not in text for text in plain)
    leaks = (
        "forward",
        "turn",
        "rotat",
        "speed",
        "m/s",
        "second",
        "stop mov",
        "전진",
        "회전",
        "속도",
        "초",
        "직진",
    )
    assert not [
        text for text in texts for word in leaks if word in text.lower() or any(map(str.isdigit, text))
    ]
