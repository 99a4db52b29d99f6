"""Runs that differ in anything but the compared keys and the seed are refused, each difference by its name."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.comparison import differences as rules
from src.comparison import gather
from src.comparison.definition import is_plan
from src.comparison.plan import Plan
from src.core.errors import ProjectError
from src.core.leaves import leaves
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

ARMS = tuple(records.RANKS)
FIGURES = {SUCCESS: 0.5, ERROR: 0.1}


def written(root: Path, arm: str = "large", seed: int = 1, **changes: Any) -> Path:
    """Three arms with two seeds, all alike; the run (arm, seed) with `changes`."""
    for one in ARMS:
        for number in (0, 1):
            records.write(root, one, number, FIGURES, **(changes if (one, number) == (arm, seed) else {}))
    return root


def found(root: Path, plan: Plan | None = None) -> list[rules.Difference]:
    plan = plan or records.plan()
    return rules.differences(plan, gather.choose(plan, gather.below(root)).runs)


def test_runs_that_are_alike_have_no_difference(tmp_path: Path) -> None:
    assert found(written(tmp_path)) == []


CHANGES = [
    ("trainer.max_epochs", {"config__trainer__max_epochs": 3}),
    ("data.window", {"config__data__window": 4}),
    ("data.seed", {"config__data__seed": 7}),
    ("data.cache", {"config__data__cache": "/elsewhere"}),
    ("model.backbone.checkpoint", {"config__model__backbone__checkpoint": "other"}),
    ("callbacks.checkpoint.folder", {"config__callbacks__checkpoint__folder": "somewhere"}),
    ("data.data_hash", {"data__data_hash": "d1"}),
    ("data.split_hash", {"data__split_hash": "s1"}),
    ("data.instruction.hash", {"data__instruction": {"hash": "w1"}}),
    ("data.splits.val.episodes", {"data__splits__val__episodes": 79}),
    ("data.splits.test.episodes", {"data__splits__test__episodes": 1}),
    ("evaluation.suite_version", {"evaluation__suite_version": "2"}),
    ("evaluation.split", {"evaluation__split": "test"}),
    ("evaluation.suites", {"evaluation__suites": [{"suite": "full1", "split": "layout", "episodes": 50}]}),
    ("base_model.id", {"model__base_model": {"id": "b", "revision": None, "fingerprint": "f-large"}}),
    ("base_model.revision", {"model__base_model__revision": "r"}),
    ("base_model.fingerprint", {"model__base_model__fingerprint": "g"}),
    ("code", {"code__sha": "1234567890"}),
    ("code", {"code__dirty": True, "code__diff_sha256": "99"}),
    ("packages.torch", {"packages__torch": "2.14.0"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "changes"), CHANGES, ids=[f"{index}-{key}" for index, (key, _) in enumerate(CHANGES)]
)
def test_each_difference_is_found_by_its_name_and_refused(
    tmp_path: Path, key: str, changes: dict[str, Any]
) -> None:
    one = found(written(tmp_path, **changes))
    assert [difference.key for difference in one] == [key]
    assert ("large, seed 1",) in [runs for _, runs in one[0].values]
    refused, sentences = rules.split(records.plan(), one, [])
    with pytest.raises(ProjectError, match=key.replace(".", r"\.")):
        rules.refuse(refused)
    assert sentences == []
    refused, sentences = rules.split(records.plan(), one, [key])
    assert refused == [] and key in sentences[0] and "large, seed 1" in sentences[0]
    if key == "data.seed":  # follows the seed: two seeds of one arm have two anyway
        return
    # Inside one arm nothing may differ, whatever the definition lets arms differ in.
    refused, _ = rules.split(records.plan(may_differ=(key,)), one, [])
    assert [difference.key for difference in refused] == [key]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whichever_leaf_changes_it_is_named_unless_it_is_the_plan_s(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("runs")
    keys = sorted(key for key, _ in leaves(records.config("large", 1, "x")) if key not in ("arm", "seed"))
    key = data.draw(st.sampled_from([key for key in keys if not key.startswith("comparison")]))
    written(root, **{f"config__{key.replace('.', '__')}": "CHANGED"})
    names = [difference.key for difference in found(root)]
    # A run's own folder also stands in other leaves; saying another one is a change of those.
    expected = (
        ["callbacks.checkpoint.folder"]
        if key == "run_folder"
        else []
        if is_plan(key) or key == "data.root"
        else [key]
    )
    assert names == expected


@pytest.mark.parametrize("change", ["logger__file", "callbacks__progress__quiet_s", "name", "comparison"])
def test_where_a_run_belongs_may_differ(tmp_path: Path, change: str) -> None:
    assert found(written(tmp_path, **{f"config__{change}": "other"})) == []


def test_what_arms_may_differ_in_is_stated_and_not_refused(tmp_path: Path) -> None:
    for arm in ARMS:
        for seed in (0, 1):
            records.write(tmp_path, arm, seed, FIGURES, data__instruction={"hash": f"w-{arm}"})
    one = found(tmp_path)
    assert [difference.key for difference in rules.split(records.plan(), one, [])[0]] == [
        "data.instruction.hash"
    ]
    refused, sentences = rules.split(records.plan(may_differ=("data.instruction.hash",)), one, [])
    assert refused == [] and sentences[0].startswith(
        "Differs because of what is compared: data.instruction.hash"
    )


def test_a_run_moved_to_another_folder_is_the_same_run(tmp_path: Path) -> None:
    written(tmp_path / "here")
    shutil.move(tmp_path / "here" / "large,seed=1", tmp_path / "far")
    shutil.move(tmp_path / "far", tmp_path / "here" / "z")
    assert found(tmp_path / "here") == []


def test_the_same_data_elsewhere_are_the_same_data(tmp_path: Path) -> None:
    assert found(written(tmp_path / "same", config__data__root="/mnt/data/sim")) == []
    other = found(written(tmp_path / "other", config__data__root="/mnt/data/sim", data__data_hash="d1"))
    assert [one.key for one in other] == ["data.root", "data.data_hash"]


def test_a_definition_changed_after_the_runs_is_refused(tmp_path: Path) -> None:
    expected = {arm: dict(leaves(records.config(arm, 0, "RUN"))) for arm in ARMS}
    expected["large"]["model.lora.rank"] = 64
    plan = records.plan(expected=expected)
    one = found(written(tmp_path), plan)
    assert [(difference.key, difference.rule) for difference in one] == [("model.lora.rank", "definition")]
    assert one[0].values == (("32, the file says 64", ("large, seed 0", "large, seed 1")),)
    with pytest.raises(ProjectError, match="changed after the runs"):
        rules.refuse(rules.split(plan, one, [])[0])


def test_what_all_runs_hold_fixed_elsewhere_than_the_file_is_said(tmp_path: Path) -> None:
    expected = {arm: {**dict(leaves(records.config(arm, 0, "RUN"))), "trainer.max_epochs": 5} for arm in ARMS}
    plan = records.plan(expected=expected)
    runs = gather.choose(plan, gather.below(written(tmp_path))).runs
    assert rules.differences(plan, runs) == []
    assert rules.changed_since(plan, runs) == [
        "trainer.max_epochs: all runs have 2, the experiment would now use 5."
    ]
    assert rules.changed_since(records.plan(), runs) == []


def test_a_compared_backbone_has_weights_of_its_own(tmp_path: Path) -> None:
    for arm in ARMS:
        base = {"id": arm, "revision": None, "fingerprint": f"f-{arm}"}
        records.write(
            tmp_path, arm, 0, FIGURES, model__base_model=base, config__model__backbone__checkpoint=arm
        )
    plan = records.plan(compared=("model.lora.rank", "model.backbone.checkpoint"), expected={})
    assert found(tmp_path, plan) == []
    assert [one.key for one in found(tmp_path)] == ["model.backbone.checkpoint", "base_model.id"]


def test_a_fingerprint_is_one_for_all_arms_where_the_model_is_not_compared(tmp_path: Path) -> None:
    plan = records.plan(compared=("data.window",), expected={})
    for arm in ARMS:
        records.write(tmp_path, arm, 0, FIGURES, config__model__lora__rank=1)
    assert [one.key for one in found(tmp_path, plan)] == ["base_model.fingerprint"]


def test_what_nobody_recorded_is_unknown_and_never_equal(tmp_path: Path) -> None:
    for arm in ARMS:
        records.write(tmp_path, arm, 0, FIGURES, code=None, data__data_hash=None)
    one = found(tmp_path)
    assert [(difference.key, difference.rule) for difference in one] == [
        ("code", "unknown"),
        ("data.data_hash", "unknown"),
    ]
    refused, _ = rules.split(records.plan(), one, [])
    with pytest.raises(ProjectError, match=r"allow=\[unknown\]"):
        rules.refuse(refused)
    refused, sentences = rules.split(records.plan(), one, ["unknown"])
    assert refused == [] and sentences == [
        "Not recorded of large, seed 0; small, seed 0; text, seed 0: code, data.data_hash."]  # fmt: skip


def test_another_machine_is_a_warning_on_the_costs_alone(tmp_path: Path) -> None:
    root = written(tmp_path, machine={"cpu": "Apple M3", "gpus": []})
    assert found(root) == []
    (sentence,) = rules.machines(gather.choose(records.plan(), gather.below(root)).runs)
    assert "Apple M3 (large, seed 1)" in sentence and sentence.startswith("Minutes, memory and step time")


def test_one_number_written_twice_is_one_number(tmp_path: Path) -> None:
    assert found(written(tmp_path, config__trainer__max_epochs=2.0)) == []


def test_an_imported_run_knows_little_and_is_refused_for_that_alone(tmp_path: Path) -> None:
    records.write(tmp_path, "text", 0, FIGURES)
    records.write(tmp_path, "board", -1, FIGURES, state="imported", config={"lr": 1}, code=None, data={}, packages={},
                  evaluation={}, model={})  # fmt: skip
    plan = records.plan(arms={"text": (), "board": ()})
    runs = gather.choose(plan, gather.below(tmp_path)).runs
    one = rules.differences(plan, runs)
    assert {difference.rule for difference in one} == {"unknown"}
    assert {difference.values[0][1] for difference in one} == {("board, seed unknown",)}
    assert {"config", "code", "packages", "data.data_hash", "evaluation.suite_version"} <= {
        each.key for each in one
    }
    with pytest.raises(ProjectError, match=r"allow=\[unknown\]"):
        rules.refuse(rules.split(plan, one, [])[0])
    refused, sentences = rules.split(plan, one, ["unknown"])
    assert refused == [] and len(sentences) == 1
