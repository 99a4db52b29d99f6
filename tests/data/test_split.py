"""The split of a folder: made once, read ever after, scenarios looked after, subsets inside one another."""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from src.core.config import build, check
from src.core.errors import ProjectError
from src.data.episode import EpisodeFile, open_episode, write_episode
from src.data.split import (
    SPLITS,
    KFold,
    LeaveOneScenarioOut,
    SplitMethod,
    SplitRule,
    load_or_make_split,
    take_episodes,
)
from tests.data.builders import make_episode, make_folder

CONF = Path(__file__).resolve().parents[2] / "conf" / "data" / "split"


def files(root: Path) -> list[EpisodeFile]:
    return sorted((open_episode(path) for path in root.glob("*.h5")), key=lambda episode: episode.id)


def test_written_once_and_read_ever_after(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 10)
    rule = SplitRule(0.6, 0.2, 0.2)
    first = load_or_make_split(files(tmp_path), rule, tmp_path)
    assert {name: len(ids) for name, ids in first.members.items()} == {"train": 6, "val": 2, "test": 2}
    path = rule.file(tmp_path)
    assert path.name == "split-seed0-60-20-20.json"
    stamp = path.stat().st_mtime_ns
    assert load_or_make_split(files(tmp_path)[::-1], rule, tmp_path) == first
    assert path.stat().st_mtime_ns == stamp


def test_the_file_decides_not_the_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, [3] * 6)
    rule = SplitRule(0.5, 0.5, 0.0)
    first = load_or_make_split(files(tmp_path), rule, tmp_path)

    def refuse(*args: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("src.data.split.group_episodes", refuse)
    monkeypatch.setattr(SplitRule, "parts", refuse)
    assert load_or_make_split(files(tmp_path), rule, tmp_path) == first


def test_near_duplicates_stay_together(tmp_path: Path) -> None:
    for n in range(12):
        twin = make_episode(f"original{n // 2}", 3)
        write_episode(
            tmp_path / f"e{n:02d}.h5", make_episode(f"e{n:02d}", frames=twin.frames, actions=twin.actions)
        )
    split = load_or_make_split(files(tmp_path), SplitRule(0.5, 0.5, 0.0), tmp_path)
    where = {i: name for name, ids in split.members.items() for i in ids}
    assert all(where[f"e{n:02d}"] == where[f"e{n + 1:02d}"] for n in range(0, 12, 2))
    assert len(set(split.groups.values())) == 6
    apart = load_or_make_split(files(tmp_path), SplitRule(0.5, 0.5, 0.0, near_duplicates=False), tmp_path)
    assert len(set(apart.groups.values())) == 12
    chosen = take_episodes(files(tmp_path), 4, 0, split.groups)
    assert len({split.groups[e.id] for e in chosen}) == 2
    assert len(chosen) == 4


def test_folds_share_one_manifest(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 12)
    splits = [load_or_make_split(files(tmp_path), KFold(3, fold), tmp_path) for fold in range(3)]
    assert [path.name for path in tmp_path.glob("*.json")] == ["split-seed0-3fold.json"]
    assert sorted(i for split in splits for i in split.members["test"]) == [f"e{n:03d}" for n in range(12)]
    assert [splits[(k + 1) % 3].members["test"] for k in range(3)] == [
        split.members["val"] for split in splits
    ]
    assert len({split.split_hash for split in splits}) == 3
    assert len({split.data_hash for split in splits}) == 1


def test_one_scenario_out(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 12)
    split = load_or_make_split(files(tmp_path), LeaveOneScenarioOut("left", 0.2), tmp_path)
    assert split.members["test"] == tuple(f"e{n:03d}" for n in range(1, 12, 2))
    assert (len(split.members["train"]), len(split.members["val"])) == (5, 1)
    assert split.notes == ()


def test_a_scenario_too_small_for_every_split_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, [3] * 10)
    write_episode(tmp_path / "rare.h5", make_episode("rare", scenario="rare"))
    rule = SplitRule(0.6, 0.2, 0.2)
    expected = (
        "scenario 'rare' (1 episodes in 1 group) is not in val and test; "
        "3 groups of its own would put it everywhere."
    )
    for _ in range(2):  # when it is made and whenever it is read
        with caplog.at_level(logging.WARNING):
            assert load_or_make_split(files(tmp_path), rule, tmp_path).notes == (expected,)
        assert expected in caplog.text
        caplog.clear()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SplitRule(0.8, 0.1, 0.1), "the val split of 4 episodes in 1 groups came out empty"),
        (KFold(4), r"data\.split\.folds is 4, but 4 episodes in 1 groups leave fold1, fold2, fold3 empty"),
        (LeaveOneScenarioOut("left"), "nothing is left to train on"),
    ],
)
def test_too_few_groups_for_a_split(tmp_path: Path, rule: SplitMethod, message: str) -> None:
    for i in range(4):
        write_episode(tmp_path / f"e{i}.h5", make_episode(f"e{i}", group="one"))
    with pytest.raises(ProjectError, match=message):
        load_or_make_split(files(tmp_path), rule, tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_a_folder_that_cannot_be_written_names_the_key(tmp_path: Path) -> None:
    make_folder(tmp_path, [3] * 4)
    (tmp_path / "file").write_text("")
    rule = SplitRule(0.5, 0.5, 0.0, path=str(tmp_path / "file" / "s.json"))
    with pytest.raises(ProjectError, match=r"data\.split\.path"):
        load_or_make_split(files(tmp_path), rule, tmp_path)


# ---------------------------------------------------------------- subsets of the training episodes


def pretend(rows: list[tuple[int, str]]) -> list[Any]:
    """Episodes as far as take_episodes looks: groups of the given sizes, each of one scenario."""
    return [
        SimpleNamespace(id=f"{g}-{k}", group=f"g{g}", scenario=scenario)
        for g, (size, scenario) in enumerate(rows)
        for k in range(size)
    ]


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc")), min_size=1, max_size=40),
    amounts=st.lists(
        st.one_of(st.integers(1, 80), st.integers(1, 100).map(lambda p: p / 100)), min_size=2, max_size=6
    ),
    seed=st.integers(0, 3),
    shuffler=st.randoms(use_true_random=False),
)
def test_smaller_sets_are_parts_of_larger_ones(
    rows: list[tuple[int, str]], amounts: list[int | float], seed: int, shuffler: Any
) -> None:
    episodes = pretend(rows)
    sets: list[tuple[int, set[str]]] = []
    for amount in amounts:
        count = amount if isinstance(amount, int) else round(amount * 100) * len(episodes) // 100
        try:
            taken = {e.id for e in take_episodes(episodes, amount, seed)}
        except ProjectError as error:
            assert "data.train_episodes is" in str(error)
            assert count < 3 or count > len(episodes)
            continue
        shuffled = list(episodes)
        shuffler.shuffle(shuffled)
        assert {e.id for e in take_episodes(shuffled, amount, seed)} == taken
        assert count - 3 < len(taken) <= count
        assert all(
            f"{g}-{k}" in taken for g, (size, _) in enumerate(rows) for k in range(size) if f"{g}-0" in taken
        )
        sets.append((len(taken), taken))
    sets.sort(key=lambda one: one[0])
    assert all(small <= large for (_, small), (_, large) in zip(sets, sets[1:], strict=False))


@settings(max_examples=60)
@given(
    sizes=st.dictionaries(st.sampled_from("abcd"), st.integers(1, 30), min_size=1),
    percent=st.integers(5, 100),
    seed=st.integers(0, 3),
)
def test_subsets_keep_the_shares_of_the_scenarios(sizes: dict[str, int], percent: int, seed: int) -> None:
    episodes = pretend([(1, scenario) for scenario, count in sizes.items() for _ in range(count)])
    count = percent * len(episodes) // 100
    if not count:
        return
    taken = Counter(e.scenario for e in take_episodes(episodes, percent / 100, seed))
    assert taken.total() == count
    for scenario, size in sizes.items():
        # Half an episode from rounding its own share; where the others round moves the cut by half of one each.
        assert abs(taken[scenario] - count / len(episodes) * size) <= 0.5 + 0.5 * len(sizes)


def test_ten_twenty_five_and_fifty_percent() -> None:
    episodes = pretend([(1, scenario) for scenario in "abcdefgh" for _ in range(40)])
    sets = [take_episodes(episodes, amount, 0) for amount in (0.1, 0.25, 0.5, 1.0)]
    assert [len(taken) for taken in sets] == [32, 80, 160, 320]
    ids = [{e.id for e in taken} for taken in sets]
    assert ids[0] < ids[1] < ids[2] < ids[3]
    assert all(len(set(Counter(e.scenario for e in taken).values())) == 1 for taken in sets)
    assert {e.id for e in take_episodes(episodes, 80, 0)} == ids[1]
    assert {e.id for e in take_episodes(episodes, 80, 1)} != ids[1]
    assert take_episodes(episodes, None, 0) == episodes


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        (0, "is 0, but the training split has 1 to 6 episodes"),
        (7, "is 7, but the training split has 1 to 6 episodes"),
        (1.5, "a number with a point is a fraction"),
        (0.0, "a number with a point is a fraction"),
        (float("nan"), "expected a number of episodes or a fraction"),
        (True, "expected a number of episodes or a fraction"),
        (1, "smaller than the first group of 2 near-duplicate episodes, which is never cut"),
        (0.1, r"is 0\.1 \(0 of 6 episodes\), smaller than the first group"),
    ],
)
def test_impossible_amounts_name_the_key(amount: int | float, message: str) -> None:
    with pytest.raises(
        ProjectError, match=rf"data\.train_episodes .*{message}|data\.train_episodes {message}"
    ):
        take_episodes(pretend([(2, "a")] * 3), amount, 0)


# ---------------------------------------------------------------- conf/data/split


@pytest.mark.parametrize(
    ("name", "kind", "changes"),
    [
        ("train_val", SplitRule, {}),
        ("train_val_test", SplitRule, {}),
        ("kfold", KFold, {}),
        ("leave_one_scenario_out", LeaveOneScenarioOut, {"scenario": "left"}),
    ],
)
def test_the_configs_build_their_rule(name: str, kind: type, changes: dict[str, Any]) -> None:
    node = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)
    check(node)  # type: ignore[arg-type]
    assert type(build(node)) is kind  # type: ignore[arg-type]
    keys = set(node) - {"_target_"}
    assert keys == set(kind.__dataclass_fields__)  # type: ignore[attr-defined]  # every option can be set


def test_every_config_is_tested() -> None:
    assert {path.stem for path in CONF.glob("*.yaml")} == {
        "train_val", "train_val_test", "kfold", "leave_one_scenario_out",
    }  # fmt: skip


def test_a_scenario_has_to_be_given() -> None:
    with pytest.raises(ProjectError, match="scenario: a value is required here"):
        check(OmegaConf.load(CONF / "leave_one_scenario_out.yaml"))  # type: ignore[arg-type]


@settings(max_examples=5)
@given(order=st.permutations(range(8)))
def test_the_order_in_which_files_are_found_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    root = tmp_path_factory.mktemp("order")
    make_folder(root, [2] * 8)
    rule = SplitRule(0.5, 0.25, 0.25)
    found = files(root)
    first = load_or_make_split([found[i] for i in order], rule, root)
    rule.file(root).unlink()
    assert load_or_make_split(found, rule, root) == first
    assert sorted(i for name in SPLITS for i in first.members[name]) == [e.id for e in found]
