"""Ways to split, for all inputs: everything once, groups whole, scenarios everywhere, order irrelevant."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.core.errors import ProjectError
from src.data.split_rules import (
    SPLITS,
    KFold,
    LeaveOneScenarioOut,
    Row,
    SplitMethod,
    SplitRule,
    enough,
    shuffle_key,
)

PURE = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "b", "c"])), min_size=1, max_size=60)
MIXED = st.lists(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3), min_size=1, max_size=40
)  # per group the scenarios of its episodes
FRACTIONS = st.sampled_from([(0.75, 0.25, 0.0), (0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (1.0, 0.0, 0.0)])


def pure_rows(groups: list[tuple[int, str]]) -> list[Row]:
    return [(f"{g}-{k}", f"g{g}", scenario) for g, (n, scenario) in enumerate(groups) for k in range(n)]


def mixed_rows(groups: list[list[str]]) -> list[Row]:
    return [
        (f"{g}-{k}", f"g{g}", scenario) for g, found in enumerate(groups) for k, scenario in enumerate(found)
    ]


def holds_for_every_method(rule: SplitMethod, rows: list[Row], shuffler: random.Random) -> dict[str, str]:
    """Covered, disjoint (a dict), groups whole, and the same whatever the order."""
    parts = rule.parts(rows)
    assert parts.keys() == {row[0] for row in rows}
    assert set(parts.values()) <= set(rule.part_names())
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert rule.parts(shuffled) == parts
    for group in {row[1] for row in rows}:
        assert len({parts[i] for i, g, _ in rows if g == group}) == 1
    return {i: rule.role(part) for i, part in parts.items()}


@settings(max_examples=60)
@given(groups=MIXED, seed=st.integers(0, 5), fractions=FRACTIONS, shuffler=st.randoms(use_true_random=False))
def test_fractions_cover_everything_and_cut_no_group(
    groups: list[list[str]], seed: int, fractions: tuple[float, float, float], shuffler: random.Random
) -> None:
    rule = SplitRule(*fractions, seed)
    rows = mixed_rows(groups)
    result = holds_for_every_method(rule, rows, shuffler)
    assert all(dict(zip(SPLITS, fractions, strict=True))[name] > 0 for name in result.values())
    strata = Counter(tuple(sorted(set(found))) for found in groups)
    for stratum, count in strata.items():
        if count >= enough(fractions):
            members = [f"{g}-0" for g, found in enumerate(groups) if tuple(sorted(set(found))) == stratum]
            assert {result[i] for i in members} == {n for n, f in zip(SPLITS, fractions, strict=True) if f}


@given(groups=PURE, seed=st.integers(0, 5), fractions=FRACTIONS)
def test_shares_are_right_to_within_groups(
    groups: list[tuple[int, str]], seed: int, fractions: tuple[float, float, float]
) -> None:
    rows = pure_rows(groups)
    rule = SplitRule(*fractions, seed)
    counts = Counter(rule.parts(rows).values())
    for name, fraction in zip(SPLITS, fractions, strict=True):
        # One group of the largest size, and for each of three scenarios one that the guarantee may have moved.
        assert abs(counts[name] - fraction * len(rows)) <= 3 * (1 + 3)


def test_large_data_have_exact_shares() -> None:
    rows = [(f"{s}{n}", f"{s}{n}", s) for s in "abcdefgh" for n in range(50)]
    for seed in range(5):
        parts = SplitRule(0.8, 0.1, 0.1, seed).parts(rows)
        for scenario in "abcdefgh":
            assert Counter(parts[i] for i, _, s in rows if s == scenario) == {
                "train": 40,
                "val": 5,
                "test": 5,
            }


@settings(max_examples=40)
@given(
    groups=PURE,
    folds=st.integers(3, 6),
    seed=st.integers(0, 3),
    shuffler=st.randoms(use_true_random=False),
)
def test_folds_partition(
    groups: list[tuple[int, str]], folds: int, seed: int, shuffler: random.Random
) -> None:
    rows = pure_rows(groups)
    try:
        parts = KFold(folds, 0, seed).parts(rows)
    except ProjectError as error:
        assert "empty (a group is never cut); choose fewer folds" in str(error)
        assert len(groups) < 3 * folds  # with a group for each fold in every scenario it never happens
        return
    tests: list[str] = []
    vals: list[str] = []
    for fold in range(folds):
        rule = KFold(folds, fold, seed)
        assert rule.parts(rows) == parts  # the parts are those of every fold
        result = holds_for_every_method(rule, rows, shuffler)
        assert set(result.values()) == set(SPLITS)
        tests += [i for i, name in result.items() if name == "test"]
        vals += [i for i, name in result.items() if name == "val"]
    assert sorted(tests) == sorted(vals) == sorted(row[0] for row in rows)
    for scenario, count in Counter(scenario for _, scenario in groups).items():
        if count >= folds:
            assert len({parts[i] for i, _, s in rows if s == scenario}) == folds


@given(groups=PURE, val=st.sampled_from([0.0, 0.1, 0.5]), seed=st.integers(0, 3), scenario=st.sampled_from("abc"),
       shuffler=st.randoms(use_true_random=False))  # fmt: skip
def test_a_scenario_is_left_out_whole(
    groups: list[tuple[int, str]], val: float, seed: int, scenario: str, shuffler: random.Random
) -> None:
    rows = pure_rows(groups)
    rule = LeaveOneScenarioOut(scenario, val, seed)
    present = {row[2] for row in rows}
    if scenario not in present or len(present) == 1:
        with pytest.raises(ProjectError, match=r"data\.split\.scenario"):
            rule.parts(rows)
        return
    result = holds_for_every_method(rule, rows, shuffler)
    assert all((result[i] == "test") == (s == scenario) for i, _, s in rows)
    if not val:
        assert "val" not in result.values()


def test_seeds_differ_and_mixed_groups_are_their_own_stratum() -> None:
    rows = [(f"{g}{side}", f"g{g}", side) for g in range(100) for side in ("left", "right")]
    one, two = (SplitRule(0.8, 0.1, 0.1, seed).parts(rows) for seed in (0, 1))
    assert one != two
    for result in (one, two):
        assert Counter(result.values()) == {"train": 160, "val": 20, "test": 20}
        assert all(result[f"{g}left"] == result[f"{g}right"] for g in range(100))


def test_small_scenarios_reach_every_split_from_enough_groups_on() -> None:
    assert [enough(f) for f in ((0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (0.5, 0.25, 0.25), (1, 0, 0))] == [
        5,
        5,
        3,
        1,
    ]
    for count, everywhere in ((5, True), (4, False)):
        rows = [(f"{s}{n}", f"{s}{n}", s) for s in "abcdefgh" for n in range(count)]
        parts = SplitRule(0.8, 0.1, 0.1).parts(rows)
        reached = [{parts[i] for i, _, s in rows if s == scenario} == set(SPLITS) for scenario in "abcdefgh"]
        assert all(reached) == everywhere


def test_leaving_out_half_a_group_is_refused() -> None:
    rows = [("1", "g", "left"), ("2", "g", "right"), ("3", "h", "right")]
    with pytest.raises(ProjectError, match=r"scenario=left cannot be left out: group 'g' .* of left, right"):
        LeaveOneScenarioOut("left").parts(rows)
    with pytest.raises(ProjectError, match=r"'up'; the data have left, right\. Choose"):
        LeaveOneScenarioOut("up").parts(rows)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (SplitRule, {"train": 0.8, "val": 0.1, "test": 0.2}, "add up to 1"),
        (SplitRule, {"train": 1.2, "val": -0.2, "test": 0.0}, "add up to 1"),
        (SplitRule, {"train": float("nan"), "val": 0.5, "test": 0.5}, "add up to 1"),
        (SplitRule, {"train": 0.0, "val": 0.5, "test": 0.5}, "train must be above 0"),
        (SplitRule, {"seed": -1}, r"data\.split\.seed is -1"),
        (KFold, {"folds": 2}, r"data\.split\.folds is 2; expected 3"),
        (KFold, {"folds": 4, "fold": 4}, r"data\.split\.fold is 4; expected 0 to 3"),
        (LeaveOneScenarioOut, {"scenario": "a", "val": 1.0}, r"data\.split\.val is 1"),
    ],
)
def test_impossible_values_name_their_key(kind: type, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        kind(**fields)


def test_every_choice_that_changes_the_parts_changes_the_file_name() -> None:
    rules: list[SplitMethod] = [
        SplitRule(), SplitRule(seed=1), SplitRule(0.9, 0.1, 0.0), SplitRule(near_duplicates=False), KFold(),
        KFold(6), KFold(seed=1), LeaveOneScenarioOut("a"), LeaveOneScenarioOut("b"), LeaveOneScenarioOut("a", 0.2),
        LeaveOneScenarioOut("a/b"), LeaveOneScenarioOut("a b"), LeaveOneScenarioOut("a_b"),
    ]  # fmt: skip
    stems = [rule.file(Path("root")).name for rule in rules]
    assert len(set(stems)) == len(stems)
    assert all("/" not in stem and " " not in stem for stem in stems)
    assert KFold(5, 3).file(Path("root")) == KFold(5, 0).file(Path("root"))  # one manifest for all folds


def test_the_shuffle_is_fixed_for_ever() -> None:
    """Another order would draw another split of the same data under the same seed."""
    assert shuffle_key(0, "g1")[:12] == "167bab06eecf"
    rows = [(f"e{n}", f"g{n}", "ab"[n % 2]) for n in range(12)]
    parts = SplitRule(0.5, 0.25, 0.25).parts(rows)
    assert sorted(i for i, part in parts.items() if part == "test") == [
        "e10",
        "e11",
        "e3",
    ]
