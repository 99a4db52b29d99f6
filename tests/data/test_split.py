"""The split: groups whole, scenarios in proportion, written once, and a changed folder noticed."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.split import SPLITS, SplitRule, assign, load_or_make_split, take_episodes
from tests.data.builders import make_episode, make_folder


def files(root: Path) -> list[EpisodeFile]:
    return sorted((open_episode(path) for path in root.glob("*.h5")), key=lambda episode: episode.id)


@given(
    groups=st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc")), min_size=1, max_size=60),
    seed=st.integers(0, 5),
    test=st.sampled_from([0.0, 0.1, 0.25]),
)
def test_every_episode_once_groups_whole_order_irrelevant(
    groups: list[tuple[int, str]], seed: int, test: float
) -> None:
    rows = [(f"{g}-{k}", f"g{g}", scenario) for g, (n, scenario) in enumerate(groups) for k in range(n)]
    rule = SplitRule(train=0.75 - test, val=0.25, test=test, seed=seed)
    result = assign(rows, rule)
    assert result.keys() == {row[0] for row in rows}
    assert result == assign(rows[::-1], rule)
    assert all(len({result[i] for i, group, _ in rows if group == g}) == 1 for g in {row[1] for row in rows})
    counts = Counter(result.values())
    assert set(counts) <= set(SPLITS)
    if test == 0:
        assert counts["test"] == 0
    for name, fraction in zip(SPLITS, rule.fractions, strict=True):
        assert abs(counts[name] - fraction * len(rows)) <= 3  # one group of the largest size
    for scenario in "abc":
        members = [i for i, _, s in rows if s == scenario]
        share = sum(result[i] == "train" for i in members)
        assert abs(share - rule.train * len(members)) <= 6  # its own rounding and what was left over before


def test_seeds_differ_and_mixed_groups_are_their_own_stratum() -> None:
    rows = [(f"{g}{side}", f"g{g}", side) for g in range(100) for side in ("left", "right")]
    one, two = (assign(rows, SplitRule(0.8, 0.1, 0.1, seed)) for seed in (0, 1))
    assert one != two
    for result in (one, two):
        assert Counter(result.values()) == {"train": 160, "val": 20, "test": 20}
        assert all(result[f"{g}left"] == result[f"{g}right"] for g in range(100))


def test_written_once_and_read_ever_after(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 10)
    rule = SplitRule(0.6, 0.2, 0.2)
    first = load_or_make_split(files(tmp_path), rule, tmp_path)
    assert {name: len(ids) for name, ids in first.members.items()} == {"train": 6, "val": 2, "test": 2}
    path = rule.file(tmp_path)
    assert path.name == "split-seed0-60-20-20.json"
    content = json.loads(path.read_text())
    stamp = path.stat().st_mtime_ns
    assert load_or_make_split(files(tmp_path), rule, tmp_path) == first
    assert path.stat().st_mtime_ns == stamp
    assert {row["scenario"] for row in content["episodes"]} == {"left", "right"}


def test_the_file_decides_not_the_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, [3] * 6)
    rule = SplitRule(0.5, 0.5, 0.0)
    first = load_or_make_split(files(tmp_path), rule, tmp_path)
    monkeypatch.setattr("src.data.split.shuffle_key", lambda seed, name: "another algorithm")
    assert load_or_make_split(files(tmp_path), rule, tmp_path) == first


def test_a_split_edited_by_hand_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 4)
    rule = SplitRule(0.5, 0.25, 0.25)
    first = load_or_make_split(files(tmp_path), rule, tmp_path)
    content = json.loads(rule.file(tmp_path).read_text())
    val, train = first.members["val"][0], first.members["train"][0]
    for row in content["episodes"]:
        row["split"] = {val: "train", train: "val"}.get(row["id"], row["split"])
    rule.file(tmp_path).write_text(json.dumps(content))
    with pytest.raises(ProjectError, match="do not fit its split_hash"):
        load_or_make_split(files(tmp_path), rule, tmp_path)


def test_added_removed_and_changed_episodes_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 10)
    rule = SplitRule(0.8, 0.2, 0.0)
    load_or_make_split(files(tmp_path), rule, tmp_path)
    write_episode(tmp_path / "new.h5", make_episode("new"))
    (tmp_path / "e003.h5").unlink()
    write_episode(
        tmp_path / "e005.h5", make_episode("e005", 3, scenario="left", instructions=("Other words.",))
    )
    with pytest.raises(ProjectError) as caught:
        load_or_make_split(files(tmp_path), rule, tmp_path)
    sentence = str(caught.value)
    assert "1 added (new)" in sentence
    assert "1 removed (e003)" in sentence
    assert "1 changed" not in sentence
    assert "delete the file" in sentence
    assert "e005" not in sentence  # wording is no recorded fact: an ablation of it keeps its split


def test_changed_frames_or_groups_are_noticed(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 6)
    rule = SplitRule(0.5, 0.5, 0.0)
    load_or_make_split(files(tmp_path), rule, tmp_path)
    original = (tmp_path / "e002.h5").read_bytes()
    episode = open_episode(tmp_path / "e002.h5").load()
    for change in ("pixel", "group", "action"):
        altered = make_episode("e002", 3, scenario=episode.scenario)
        if change == "pixel":
            altered.frames[1, 2, 3, 0] ^= 1
        elif change == "action":
            altered.actions[0, 0] += 0.01
        else:
            altered.group = "elsewhere"
        write_episode(tmp_path / "e002.h5", altered)
        with pytest.raises(ProjectError, match=r"1 changed \(e002\)"):
            load_or_make_split(files(tmp_path), rule, tmp_path)
    (tmp_path / "e002.h5").write_bytes(original)
    load_or_make_split(files(tmp_path), rule, tmp_path)


def test_a_given_file_must_be_of_the_same_rule(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", [3] * 10)
    path = str(tmp_path / "my_split.json")
    load_or_make_split(files(tmp_path / "data"), SplitRule(0.8, 0.2, 0.0, path=path), tmp_path / "data")
    assert not list((tmp_path / "data").glob("*.json"))
    with pytest.raises(ProjectError, match="made with seed 0 and fractions"):
        load_or_make_split(files(tmp_path / "data"), SplitRule(0.8, 0.2, 0.0, 1, path), tmp_path / "data")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "mobile-vla-split/2"}'])
def test_a_broken_split_file_is_not_replaced_silently(tmp_path: Path, content: str) -> None:
    make_folder(tmp_path, [3] * 4)
    rule = SplitRule(0.5, 0.5, 0.0)
    rule.file(tmp_path).write_text(content)
    with pytest.raises(ProjectError, match="no readable split file"):
        load_or_make_split(files(tmp_path), rule, tmp_path)
    assert rule.file(tmp_path).read_text() == content


def test_too_few_groups_for_a_split(tmp_path: Path) -> None:
    for i in range(4):
        write_episode(tmp_path / f"e{i}.h5", make_episode(f"e{i}", group="one"))
    with pytest.raises(ProjectError, match="the val split of 4 episodes in 1 groups came out empty"):
        load_or_make_split(files(tmp_path), SplitRule(0.8, 0.1, 0.1), tmp_path)


def test_a_folder_that_cannot_be_written_names_the_key(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 4)
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="data.split.path"):
        rule = SplitRule(0.5, 0.5, 0.0, path=str(tmp_path / "file" / "s.json"))
        load_or_make_split(files(tmp_path), rule, tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train": 0.8, "val": 0.1, "test": 0.2}, "add up to 1"),
        ({"train": 1.2, "val": -0.2, "test": 0.0}, "add up to 1"),
        ({"train": 0.0, "val": 0.5, "test": 0.5}, "train must be above 0"),
    ],
)
def test_fractions_are_checked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        SplitRule(**fields)


def test_smaller_training_sets_are_parts_of_larger_ones(tmp_path: Path) -> None:
    for i in range(12):
        write_episode(tmp_path / f"e{i:02d}.h5", make_episode(f"e{i:02d}", group=f"g{i // 2}"))
    episodes = files(tmp_path)
    sets = [{e.id for e in take_episodes(episodes, n, seed=0)} for n in (2, 3, 6, 12)]
    assert [len(s) for s in sets] == [2, 2, 6, 12]
    assert sets[0] <= sets[1] <= sets[2] <= sets[3]
    assert take_episodes(episodes, None, 0) == episodes
    assert {e.id for e in take_episodes(episodes, 6, seed=1)} != sets[2]
    for count in (0, 13):
        with pytest.raises(ProjectError, match=f"data.train_episodes is {count}"):
            take_episodes(episodes, count, 0)
    with pytest.raises(ProjectError, match="never cut"):
        take_episodes(episodes, 1, 0)
