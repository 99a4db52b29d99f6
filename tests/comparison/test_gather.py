"""Which runs a table is made of: duplicates, runs that are not finished, missing arms and seeds."""

from pathlib import Path

import pytest

from src.comparison import gather, plan
from src.core.errors import ProjectError
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

ARMS = tuple(records.RANKS)
FIGURES = {SUCCESS: 0.5, ERROR: 0.1}


def written(root: Path, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    for arm in ARMS:
        for seed in seeds:
            records.write(root, arm, seed, FIGURES)
    return root


def test_a_whole_comparison_needs_no_word(tmp_path: Path) -> None:
    found = gather.choose(records.plan(), gather.below(written(tmp_path)))
    assert [(run.arm, run.seed) for run in found.runs] == [(arm, seed) for arm in ARMS for seed in (0, 1, 2)]
    assert found.warnings == () and set(found.missing.values()) == {()}


def test_two_finished_runs_of_one_arm_and_seed_are_an_error_that_names_both(tmp_path: Path) -> None:
    records.write(written(tmp_path), "text", 1, FIGURES, place="copy")
    with pytest.raises(
        ProjectError, match=r"copy and .*text,seed=1: both are finished runs of arm text with seed 1"
    ):
        gather.choose(records.plan(), gather.below(tmp_path))


@pytest.mark.parametrize("state", ["failed", "killed", "interrupted", "pruned"])
def test_what_did_not_finish_is_listed_with_the_command_that_completes_it(tmp_path: Path, state: str) -> None:
    written(tmp_path, seeds=(0, 1))
    records.write(
        tmp_path, "large", 2, {}, state=state, error="out of memory\nmore" if state == "failed" else None
    )
    found = gather.choose(records.plan(overrides=("trainer.max_epochs=1",)), gather.below(tmp_path))
    assert len(found.runs) == 6
    line = found.warnings[0]
    assert f"large, seed 2, is {state}" in line and "more" not in line
    assert line.endswith(
        "python -m src.train --multirun experiment=ranks trainer.max_epochs=1 arm=large seed=2"
    )
    assert found.missing["large"] == (2,)


def test_a_record_that_says_running_without_a_process_is_killed(tmp_path: Path) -> None:
    written(tmp_path, seeds=(0,))
    records.write(tmp_path, "text", 1, {}, state="running")
    assert "is killed" in gather.choose(records.plan(), gather.below(tmp_path)).warnings[0]


def test_missing_seeds_are_a_warning_with_the_command(tmp_path: Path) -> None:
    found = gather.choose(records.plan(), gather.below(written(tmp_path, seeds=(0, 2))))
    assert found.warnings == (
        "small, large, text: no finished run with seed 1; run python -m src.train --multirun experiment=ranks seed=1",
    )


def test_an_arm_without_a_run_stops_unless_that_is_allowed(tmp_path: Path) -> None:
    for arm in ("small", "text"):
        records.write(tmp_path, arm, 0, FIGURES)
    with pytest.raises(
        ProjectError, match=r"large: no finished run.*arm=large seed=0,1,2.*allow=\[missing\]"
    ):
        gather.choose(records.plan(), gather.below(tmp_path))
    found = gather.choose(records.plan(), gather.below(tmp_path), ["missing"])
    assert {run.arm for run in found.runs} == {"small", "text"}
    assert found.warnings[0].startswith("large: no finished run; run python -m src.train")


def test_arms_that_the_table_does_not_have_are_left_out_and_said(tmp_path: Path) -> None:
    records.write(written(tmp_path), "huge", 0, FIGURES)
    found = gather.choose(records.plan(), gather.below(tmp_path))
    assert len(found.runs) == 9 and found.warnings == ("Left out, for the table has no such arm: huge (1).",)


def test_empty_and_absent_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="not found, expected the folder of a sweep"):
        gather.below(tmp_path / "nowhere")
    with pytest.raises(ProjectError, match="holds no run"):
        gather.below(tmp_path)
    with pytest.raises(ProjectError, match="names no folder"):
        gather.named([str(tmp_path / "*")])


def test_an_old_record_without_its_config_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "run.json").write_text('{"format": 1, "state": "finished"}')
    with pytest.raises(ProjectError, match="expected format 2"):
        gather.below(tmp_path)


def test_patterns_name_each_run_once(tmp_path: Path) -> None:
    written(tmp_path, seeds=(0,))
    runs = gather.named([str(tmp_path / "*"), str(tmp_path / "text,seed=0")])
    assert [run.arm for run in runs] == ["large", "small", "text"]


def test_imported_runs_become_arms_of_their_own(tmp_path: Path) -> None:
    written(tmp_path / "ranks", seeds=(0,))
    folder = records.write(tmp_path, "x", 0, FIGURES, place="old-board", state="imported", arm=None, seed=None,
                           config={}, code=None, data={})  # fmt: skip
    others = gather.with_arms(gather.named([str(folder)]))
    assert [(run.arm, run.seed) for run in others] == [("old-board", -1)]
    wider = plan.add_arms(records.plan(), others)
    found = gather.choose(wider, [*gather.below(tmp_path / "ranks"), *others])
    assert [run.arm for run in found.runs] == [*ARMS, "old-board"]
    assert "old-board" not in found.missing


# ---------------------------------------------------------------- a table without a definition


def test_arms_are_named_by_the_values_of_keys_in_their_order(tmp_path: Path) -> None:
    for window in (8, 16, 4):
        for seed in (0, 1):
            records.write(tmp_path, "text", seed, FIGURES, place=f"{window},{seed}", config__data__window=window,
                          experiment=None, arm=None,
                          overrides=[f"data.window={window}", f"seed={seed}", "name=grid"])  # fmt: skip
    made, runs = plan.by_values("grid", gather.below(tmp_path), ["data.window"], [SUCCESS], "window=8")
    assert list(made.arms.items()) == [(f"window={one}", (f"data.window={one}",)) for one in (4, 8, 16)]
    assert (made.compared, made.seeds, made.overrides) == (("data.window",), (0, 1), ("name=grid",))
    assert gather.command(made, ["window=4"], [0, 1]) == (
        "python -m src.train --multirun name=grid data.window=4 seed=0,1"
    )
    assert len(gather.choose(made, runs).runs) == 6


@pytest.mark.parametrize(
    ("by", "metrics", "reference", "message"),
    [
        (["data.windw"], [SUCCESS], "x", r"no run has a key data\.windw, did you mean data\.window"),
        (["trainer.max_epochs"], [SUCCESS], "x", "is the same in all 2 runs"),
        (["data.window"], [], "x", "metrics: found none"),
        (["data.window"], [SUCCESS], None, "reference: found none, expected the arm.*window=4, window=8"),
        (["data.window"], [SUCCESS], "window=5", "reference: found 'window=5'"),
    ],
)
def test_a_table_without_a_definition_says_what_it_lacks(
    tmp_path: Path, by: list[str], metrics: list[str], reference: str | None, message: str
) -> None:
    for window in (4, 8):
        records.write(tmp_path, "text", 0, FIGURES, place=f"{window}", config__data__window=window, experiment=None,
                      overrides=[f"data.window={window}"])  # fmt: skip
    with pytest.raises(ProjectError, match=message):
        plan.by_values("grid", gather.below(tmp_path), by, metrics, reference)


def test_a_node_names_an_arm_by_its_class(tmp_path: Path) -> None:
    for name in ("LSTMHead", "MlpHead"):
        records.write(tmp_path, "text", 0, FIGURES, place=name, experiment=None, overrides=[f"model/head={name}"],
                      config__model__head={"_target_": f"src.model.heads.{name}", f"only_{name}": 1})  # fmt: skip
    with pytest.raises(ProjectError, match="head=LSTMHead, head=MlpHead"):
        plan.by_values("grid", gather.below(tmp_path), ["model.head"], [SUCCESS], None)
