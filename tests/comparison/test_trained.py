"""How long runs were really trained: equal over the seeds of an arm, and over arms that are set alike."""

from pathlib import Path
from typing import Any

import pytest

from src.comparison import differences, gather, trained
from src.comparison.assemble import table
from src.comparison.plan import Plan
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

CUT = {"training": {"epochs": 1, "steps": 360, "processes": 1}}
EARLY = {"config__callbacks__stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping"}}


def written(
    root: Path, cut: tuple[tuple[str, int], ...], every: dict[str, Any] | None = None, **of_cut: Any
) -> Path:
    for arm in records.RANKS:
        for seed in (0, 1):
            changes = {**(every or {}), **({**CUT, **of_cut} if (arm, seed) in cut else {})}
            records.write(root, arm, seed, {SUCCESS: 0.5 + seed / 10, ERROR: 0.1 + seed}, **changes)
    return root


def found(root: Path, plan: Plan | None = None) -> tuple[dict[str, bool], list[str], str]:
    """(refused fact → within an arm, sentences, caption)"""
    plan = plan or records.plan()
    chosen = gather.choose(plan, gather.below(root))
    refused = {one.key: one.within_arm for one in trained.differences(plan, chosen.runs)}
    return refused, trained.sentences(plan, chosen.runs), table(plan, chosen, [], "x").caption


def test_equal_lengths_are_named_and_nothing_is_said(tmp_path: Path) -> None:
    refused, said, caption = found(written(tmp_path, ()))
    assert (refused, said) == ({}, []) and "epochs 2 (720 steps)" in caption


@pytest.mark.parametrize("cut", [(("large", 1),), (("large", 0), ("large", 1))], ids=["one seed", "one arm"])
def test_a_training_that_was_cut_is_refused_and_can_be_allowed(
    tmp_path: Path, cut: tuple[tuple[str, int], ...]
) -> None:
    plan = records.plan()
    refused, said, caption = found(written(tmp_path, cut))
    assert refused == dict.fromkeys(("training.steps", "training.epochs"), len(cut) == 1) and said == []
    assert "Held fixed: data d0, split s0, words w0, base" not in caption
    assert "Trained: epochs 1 to 2 (360 to 720 steps)." in caption
    one = trained.differences(plan, gather.choose(plan, gather.below(tmp_path)).runs)
    left, sentences = differences.split(plan, one, ["training.steps", "training.epochs"])
    assert left == [] and "training.steps: 360 (large, seed" in sentences[0]


def test_another_batch_plan_is_a_sentence(tmp_path: Path) -> None:
    plan = records.plan(compared=("data.window",), expected={})
    root = written(tmp_path, (("large", 0), ("large", 1)), config__data__window=4)
    refused, said, _ = found(root, plan)
    assert refused == {} and said[0].startswith(
        "Not all runs were trained with as many steps: 360 (large, seed 0"
    )
    assert "other settings of data or trainer" in said[0]


def test_early_stopping_is_a_reason_that_is_said_but_not_for_processes(tmp_path: Path) -> None:
    refused, said, caption = found(written(tmp_path, (("large", 1),), EARLY))
    assert refused == {} and len(said) == 2 and "early stopping" in said[0]
    assert "Trained: epochs 1 to 2" in caption


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    more = {"training": {"epochs": 2, "steps": 720, "processes": 2}}
    refused, _, _ = found(written(tmp_path, (("large", 1),), EARLY, **more))
    assert refused == {"training.processes": True}


def test_a_length_that_only_some_recorded_is_unknown(tmp_path: Path) -> None:
    plan = records.plan()
    runs = gather.choose(plan, gather.below(written(tmp_path, (("large", 1),), training={}))).runs
    assert {one.rule for one in trained.differences(plan, runs)} == {"unknown"}
