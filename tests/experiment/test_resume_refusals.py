"""A resume that would spoil something is refused before anything of the run is touched."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from src.core.errors import ProjectError
from src.experiment import stages
from src.experiment.resume import where_to_start
from src.train import train

Config = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, compose: Any, small_overrides: list[str]) -> Path:
    """A run whose record says it was interrupted; its files are those of a finished one."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    cfg = compose("train", *small_overrides, "trainer.max_epochs=1", f"run_folder={folder}")
    cfg.evaluation = None
    train(cfg)
    _set_record(folder, state="interrupted")
    return folder


def _set_record(folder: Path, **fields: Any) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("in_sweep", [False, True])
def test_a_living_run_keeps_every_byte(stopped: Path, small_cfg: Config, in_sweep: bool) -> None:
    _set_record(stopped, state="running")
    before = {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    cfg = small_cfg(stopped) if in_sweep else small_cfg(stopped, f"resume={stopped}")
    with (stopped / ".lock").open("a+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(ProjectError, match="another process is writing"):
            where_to_start(cfg, [], in_sweep)
    assert before == {path.name: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    _set_record(stopped, state="interrupted")


@pytest.mark.parametrize("key", ["data_hash", "split_hash"])
def test_other_episodes_or_another_split_are_refused(stopped: Path, small_cfg: Config, key: str) -> None:
    data = json.loads((stopped / "run.json").read_text())["data"]
    _set_record(stopped, data={**data, key: "another"})
    with pytest.raises(
        ProjectError,
        match="began on data .*another.*restore the folder and its split file.*or start a new run",
    ):
        train(small_cfg(stopped, f"resume={stopped}"))
    _set_record(stopped, data=data, state="interrupted")


def test_other_sentences_are_refused(stopped: Path, small_cfg: Config) -> None:
    data = json.loads((stopped / "run.json").read_text())["data"]
    assert len(data["instruction"]["hash"]) == 16
    _set_record(stopped, data={**data, "instruction": {**data["instruction"], "hash": "another"}})
    with pytest.raises(ProjectError, match="began with the instructions another, but .*or start a new run"):
        train(small_cfg(stopped, f"resume={stopped}"))
    _set_record(stopped, data=data, state="interrupted")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.accelerator=gpu", "sees no GPU"),
        ("trainer.precision=16-mixed", "float16"),
        (
            "trainer.precision=bf16-true",
            "found 'bf16-true', .*use trainer.precision=bf16-mixed.*dtype=bfloat16",
        ),
        ("trainer.precision=16-true", "found '16-true', .*use trainer.precision=bf16-mixed"),
        ("trainer.accelerator=tpu", "found 'tpu', but this computer has none"),
        ("trainer.accelerator=abacus", "found 'abacus', expected one of auto, gpu, c"),
        ("trainer.max_epochs=0", "trainer.max_epochs: found 0, expected at least 1"),
        ("seed=-1", "expected 0 to"),
    ],
)
def test_what_this_machine_or_a_run_cannot_do(
    small_cfg: Config, tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(ProjectError, match=words):
        train(small_cfg(tmp_path / "run", override))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_a_precision_that_keeps_the_frozen_weights_is_taken(
    small_cfg: Config, tmp_path: Path, precision: str
) -> None:
    stages._check_machine(small_cfg(tmp_path / "run", f"trainer.precision={precision}"))


def test_resuming_a_folder_that_is_not_there_leaves_no_folder(small_cfg: Config, tmp_path: Path) -> None:
    """Hydra makes the folder and a log file before the program can look; what is anybody's stays."""
    typo = tmp_path / "typo"
    typo.mkdir()
    (typo / "train.log").touch()
    with pytest.raises(ProjectError, match="run.json: not found"):
        where_to_start(small_cfg(typo, f"resume={typo}"), [], False)
    assert not typo.exists()
    typo.mkdir()
    (typo / "train.log").touch()
    (typo / "thesis.txt").touch()
    with pytest.raises(ProjectError, match="run.json: not found"):
        where_to_start(small_cfg(typo, f"resume={typo}"), [], False)
    assert len(list(typo.iterdir())) == 2
