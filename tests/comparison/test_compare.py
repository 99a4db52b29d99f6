"""The command line: python -m src.compare, from run folders to files and sentences."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.comparison import compare as room
from src.comparison import plan
from src.comparison.caption import own_command
from src.comparison.definition import load
from src.core.errors import ProjectError
from tests.comparison import records
from tests.comparison.records import ERROR, SUCCESS

ROOT = Path(__file__).resolve().parents[2]
SWAPPED, SIDE = "probes/driven/swapped/success_swapped", "closed_loop/full1/layout/policy/right_side"
SHARED = ["trainer.max_epochs=1"]
LEVEL = {"head_only": 0.1, "queries": 0.2, "projector": 0.3, "vision": 0.5, "text": 0.8, "everywhere": 0.9}


@pytest.fixture(scope="module")
def configs() -> tuple[Any, dict[str, dict[str, Any]]]:
    return load("lora_placement", SHARED)


def sweep(root: Path, configs: tuple[Any, Mapping[str, dict[str, Any]]], seeds: int = 3) -> Path:
    """Run folders as the sweep of lora_placement leaves them, their figures chosen."""
    comparison, by_arm = configs
    for arm in comparison.arms:
        for seed in range(seeds):
            share = round(LEVEL[arm] + 0.01 * (seed + (arm == "text") * seed), 4)
            figures = {SUCCESS: share, SIDE: share, SWAPPED: share, ERROR: 1 - share - seed / 1000}
            folder = root / f"{arm},seed={seed}"
            config = {**by_arm[arm], "seed": seed, "arm": arm, "run_folder": str(folder)}
            words = ["experiment=lora_placement", *SHARED, *comparison.arm(arm), f"arm={arm}", f"seed={seed}"]
            records.write(
                root, arm, seed, figures, experiment="lora_placement", config=config, overrides=words
            )
    return root


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "src.compare", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_makes_the_table_of_an_experiment(tmp_path: Path, configs: Any) -> None:
    folder = sweep(tmp_path / "runs", configs)
    began = time.perf_counter()
    done = run("experiment=lora_placement", f"folder={folder}")
    print(f"{time.perf_counter() - began:.1f} s for 18 runs")
    assert done.returncode == 0, done.stderr
    assert "18 runs: 6 arms, seeds 0, 1, 2" in " ".join(done.stdout.split())
    assert "text (reference)" in done.stdout and "glyph" not in done.stdout.lower()
    assert (folder / "table" / "table.md").is_file() and (folder / "table" / "table.tex").is_file()


@pytest.mark.slow
def test_runs_that_differ_end_in_one_sentence_and_exit_code_2(tmp_path: Path, configs: Any) -> None:
    folder = sweep(tmp_path / "runs", configs, seeds=1)
    path = folder / "vision,seed=0" / "run.json"
    content = json.loads(path.read_text())
    content["config"]["trainer"]["max_epochs"] = 9
    path.write_text(json.dumps(content))
    done = run("experiment=lora_placement", f"folder={folder}")
    assert done.returncode == 2
    assert done.stderr.startswith("compare: found runs that differ in trainer.max_epochs")
    assert "vision, seed 0" in done.stdout and not (folder / "table").exists()


@pytest.mark.slow
def test_a_table_needs_no_torch(tmp_path: Path, configs: Any) -> None:
    folder = sweep(tmp_path / "runs", configs, seeds=2)
    code = (
        "import sys\nfrom src.comparison.compare import compare\n"
        f"compare('lora_placement', folder={str(folder)!r}, to={str(tmp_path / 'out')!r})\n"
        "heavy = {'torch', 'lightning', 'transformers', 'peft', 'wandb', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "table.csv").is_file()


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for window in (4, 8):
        for seed in (0, 1, 2):
            figures = {SUCCESS: 0.1 * window + seed / 50, ERROR: 1 / window + seed / 30}
            records.write(tmp_path / "grid", "text", seed, figures, place=f"{window},{seed}", experiment=None,
                          config__data__window=window, overrides=[f"data.window={window}", f"seed={seed}"],
                          model__base_model={"id": "x", "revision": None, "fingerprint": "f"})  # fmt: skip
    return tmp_path / "grid"


def test_a_grid_without_an_experiment_becomes_a_table(grid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = room.compare(
        runs=[f"{grid}/*"], by=["data.window"], metrics=[SUCCESS, ERROR], reference="window=8"
    )
    assert {path.parent for path in files} == {grid / "table"}
    shown = capsys.readouterr().out
    assert "window=8 (reference)" in shown and "What does data.window change?" in shown
    assert "python -m src.train data.window=4 seed=0,1,2" not in shown  # commands stand in the files
    assert "data.window=4" in (grid / "table" / "table.md").read_text()


def test_a_grid_that_differs_in_more_than_by_is_refused(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = grid / "4,1" / "run.json"
    path.write_text(path.read_text().replace('"max_epochs": 2', '"max_epochs": 3'))
    with pytest.raises(ProjectError, match=r"differ in trainer\.max_epochs"):
        room.compare(runs=[f"{grid}/*"], by=["data.window"], metrics=[SUCCESS], reference="window=8")
    assert "trainer.max_epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "found no experiment"),
        ({"source": "cloud"}, "source: found 'cloud'"),
        ({"runs": ["x"], "by": ["y"], "arms": ["z"]}, "arms: found"),
        ({"comparison": "lora_placement", "by": ["x"]}, "by: found beside an experiment"),
        ({"comparison": "lora_placemnt"}, "did you mean lora_placement"),
        ({"comparison": "lora_placement", "source": "wandb"}, "wandb.project: found none"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        room.compare(**settings)


def test_runs_of_another_experiment_are_not_this_one_s(tmp_path: Path) -> None:
    records.write(tmp_path, "text", 0, {SUCCESS: 0.5})
    with pytest.raises(ProjectError, match=r"none of 1 runs in .* belongs to it \(found: ranks\)"):
        room.compare("lora_placement", folder=str(tmp_path))


def test_the_command_in_the_table_is_the_one_that_makes_it() -> None:
    assert own_command(experiment="x", folder=None, allow=["missing", "data.a"], arms=[]) == (
        "python -m src.compare experiment=x 'allow=[missing,data.a]'"
    )


@pytest.mark.parametrize(
    "value", ["window=8", "a b", "it's", "x,y", "null", "007", "[a]", "a\\", "lr:1e-3", "multirun/w/*"]
)
def test_the_command_is_runnable_in_a_shell_and_in_hydra(value: str) -> None:
    words = shlex.split(own_command(reference=value, runs=[value, "plain"], publish=True))
    one, two, three = OverridesParser.create().parse_overrides(words[3:])
    assert (one.key_or_group, text(one.value())) == ("reference", value)
    assert (two.key_or_group, [text(item) for item in two.value()]) == ("runs", [value, "plain"])
    assert (three.key_or_group, three.value()) == ("publish", True)


def text(value: Any) -> Any:
    return getattr(value, "text", value)


def test_what_was_typed_for_the_figures_also_holds_for_the_table() -> None:
    words = ["comparison.metrics=[offline/error]", "comparison.reference=one_frame", "comparison.seeds=[0,1]"]
    made = plan.from_experiment("history", words)
    assert (made.metrics, made.reference, made.seeds) == (("offline/error",), "one_frame", (0, 1))
    assert plan.from_experiment("history", words, reference="per_frame").reference == "per_frame"


def test_a_figure_named_twice_is_refused(grid: Path) -> None:
    with pytest.raises(ProjectError, match="expected each figure once"):
        room.compare(runs=[f"{grid}/*"], by=["data.window"], metrics=[SUCCESS, SUCCESS], reference="window=8")


def test_an_edited_figure_makes_no_table(grid: Path) -> None:
    path = grid / "4,1" / "run.json"
    content = json.loads(path.read_text())
    content["metrics"][SUCCESS] = 0.95
    path.write_text(json.dumps(content))
    with pytest.raises(
        ProjectError, match=r"4,1/run\.json: closed_loop.* is 0\.95, but its report\.json says 0\.42"
    ):
        room.compare(runs=[f"{grid}/*"], by=["data.window"], metrics=[SUCCESS], reference="window=8")
    assert not (grid / "table").exists()
