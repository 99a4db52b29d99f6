"""A run that was stopped goes on as if nothing had happened: same weights to the bit, same curves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from src.experiment.csv_logger import read_metrics
from src.experiment.resume import where_to_start
from src.experiment.run_record import read_record
from src.experiment.signals import Interrupted
from src.train import train

Config = Callable[..., DictConfig]
ROOT = Path(__file__).resolve().parents[2]
EXACT = ["callbacks.checkpoint.every_n_steps=1", "trainer.max_epochs=3", "model.lora.dropout=0.3"]


class _Kill(BaseException):
    """Stands for a process that is gone: nothing of ours handles it."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, compose: Any, small_overrides: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    cfg = compose("train", *small_overrides, *EXACT, f"run_folder={folder}")
    cfg.evaluation = None
    train(cfg)
    return folder


@pytest.mark.parametrize("step", [1, 7, 9, 14])
def test_killed_between_two_batches(
    uninterrupted: Path, small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        _raise_at(patch, "src.experiment.callbacks.clock.RunClock", "on_train_batch_end", step)
        with pytest.raises(_Kill):
            train(small_cfg(tmp_path / "run", *EXACT))
    _go_on_and_compare(small_cfg, tmp_path / "run", uninterrupted)


@pytest.mark.parametrize("step", [5, 15])
def test_killed_while_validating(
    uninterrupted: Path, small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The validation is repeated: with its epoch, its row in metrics.csv and its chance to be the best."""
    with monkeypatch.context() as patch:
        _raise_at(patch, "src.experiment.callbacks.guard.NonFiniteGuard", "on_validation_start", step)
        with pytest.raises(_Kill):
            train(small_cfg(tmp_path / "run", *EXACT))
    _go_on_and_compare(small_cfg, tmp_path / "run", uninterrupted)


def test_killed_with_validation_inside_the_epoch_and_accumulation(
    small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches = [*EXACT, "trainer.val_check_interval=2", "trainer.accumulate_grad_batches=2"]
    train(small_cfg(tmp_path / "whole", *switches))
    with monkeypatch.context() as patch:
        _raise_at(patch, "src.experiment.callbacks.guard.NonFiniteGuard", "on_validation_start", 4)
        with pytest.raises(_Kill):
            train(small_cfg(tmp_path / "run", *switches))
    _go_on_and_compare(small_cfg, tmp_path / "run", tmp_path / "whole", switches)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_exits_with_its_code(
    uninterrupted: Path, small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    before = signal.getsignal(signum)
    rarely = [switch for switch in EXACT if "every_n_steps" not in switch]

    def interrupt(_: Any, trainer: pl.Trainer, *__: Any, **___: Any) -> None:
        if trainer.global_step == 7:
            os.kill(os.getpid(), signum)

    with monkeypatch.context() as patch:
        patch.setattr("src.experiment.callbacks.guard.NonFiniteGuard.on_before_backward", interrupt)
        with pytest.raises(Interrupted) as stopped:
            train(small_cfg(tmp_path / "run", *rarely))
    assert stopped.value.code == 128 + signum
    assert read_record(tmp_path / "run")["state"] == "interrupted"
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 8
    assert signal.getsignal(signum) is before
    _go_on_and_compare(small_cfg, tmp_path / "run", uninterrupted, rarely)


def test_a_second_signal_stops_at_once(
    small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        raise AssertionError("the second signal was not obeyed")

    monkeypatch.setattr("src.experiment.callbacks.guard.NonFiniteGuard.on_before_backward", interrupt)
    with pytest.raises(Interrupted):
        train(small_cfg(tmp_path / "run"))


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def stopped(small_cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed at step 3."""
    with monkeypatch.context() as patch:
        _raise_at(patch, "src.experiment.callbacks.clock.RunClock", "on_train_batch_end", 3)
        with pytest.raises(_Kill):
            train(small_cfg(tmp_path / "stopped", "callbacks.checkpoint.every_n_steps=1", "data.window=2"))
    return tmp_path / "stopped"


def test_another_config_is_refused_key_by_key(stopped: Path, small_cfg: Config) -> None:
    cfg = small_cfg(stopped, f"resume={stopped}", "data.window=4", "optimizer.lr=0.5")
    with pytest.raises(ProjectError) as refused:
        where_to_start(cfg, ["data.window=4", "optimizer.lr=0.5", f"resume={stopped}"], in_sweep=False)
    assert "data.window was 2, now 4" in str(refused.value) and "optimizer.lr was 0.001, now 0.5" in str(
        refused.value
    )


def test_a_group_choice_that_differs_is_refused(stopped: Path, small_cfg: Config) -> None:
    cfg = small_cfg(stopped, f"resume={stopped}", "data/normalizer=meanstd")
    with pytest.raises(
        ProjectError, match="data.normalizer._target_ was src.data.normalizer.MinMaxNormalizer"
    ):
        where_to_start(cfg, ["data/normalizer=meanstd"], in_sweep=False)


def test_without_overrides_it_keeps_its_own_config(stopped: Path, small_cfg: Config) -> None:
    start = where_to_start(small_cfg(stopped, f"resume={stopped}"), [f"resume={stopped}"], in_sweep=False)
    assert start.cfg.data.window == 2 and start.checkpoint == stopped / "checkpoints" / "last.ckpt"


def test_what_is_only_shown_may_change(stopped: Path, small_cfg: Config) -> None:
    cfg = small_cfg(stopped, f"resume={stopped}", "callbacks.progress.quiet_s=5", "logger=none")
    start = where_to_start(cfg, ["callbacks.progress.quiet_s=5", "logger=none"], in_sweep=False)
    assert (
        start.cfg.callbacks.progress.quiet_s == 5 and start.cfg.logger is None and start.cfg.data.window == 2
    )


def test_a_finished_run_is_not_resumed(uninterrupted: Path, small_cfg: Config) -> None:
    with pytest.raises(ProjectError, match="finished"):
        train(small_cfg(uninterrupted, f"resume={uninterrupted}"))


def test_a_folder_without_a_run_is_one_sentence(small_cfg: Config, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="run.json: not found"):
        train(small_cfg(tmp_path / "nothing", f"resume={tmp_path / 'nothing'}"))


def test_other_frozen_weights_are_refused(
    stopped: Path, small_cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.experiment import checkpoint

    monkeypatch.setattr(checkpoint, "fingerprint", lambda _: "another model")
    with pytest.raises(ProjectError, match="other frozen weights"):
        train(small_cfg(stopped, f"resume={stopped}"))


# ---------------------------------------------------------------- sweeps


def test_a_sweep_runs_only_what_is_missing(stopped: Path, uninterrupted: Path, small_cfg: Config) -> None:
    same = [*EXACT]
    done = where_to_start(small_cfg(uninterrupted, *same), [], in_sweep=True)
    assert done.finished
    begun = ["callbacks.checkpoint.every_n_steps=1", "data.window=2"]
    half = where_to_start(small_cfg(stopped, *begun), [], in_sweep=True)
    assert not half.finished and half.checkpoint is not None
    with pytest.raises(ProjectError, match="data.window was 2, now 5"):
        where_to_start(small_cfg(stopped, *begun, "data.window=5"), [], in_sweep=True)


# ---------------------------------------------------------------- real processes


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_real_process_that_is_killed_goes_on_to_the_bit(
    uninterrupted: Path, small_overrides: list[str], tmp_path: Path, signum: int, code: int
) -> None:
    folder = tmp_path / "run"
    program = [sys.executable, "-m", "src.train"]
    arguments = [*program, *small_overrides, *EXACT, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while process.poll() is None and _last_step(folder) < 6:
        time.sleep(0.01)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert read_record(folder)["state"] == ("killed" if signum == signal.SIGKILL else "interrupted")
    again = subprocess.run(
        [*program, f"resume={folder}"], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert again.returncode == 0, again.stderr
    _assert_same(folder, uninterrupted)
    record = read_record(folder)
    assert record["state"] == "finished" and len(record["starts"]) == 2


def _last_step(folder: Path) -> int:
    try:
        return int(json.loads((folder / "run.json").read_text())["checkpoints"]["last"]["step"])
    except (FileNotFoundError, KeyError):
        return 0


def _raise_at(patch: pytest.MonkeyPatch, owner: str, hook: str, step: int) -> None:
    """Make the callback `owner` end the "process" in `hook` once `step` optimizer steps are done."""
    import pkgutil

    original = getattr(pkgutil.resolve_name(owner), hook)

    def kill(self: Any, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == step:
            raise _Kill
        original(self, trainer, *args, **kwargs)

    patch.setattr(f"{owner}.{hook}", kill)


def _go_on_and_compare(small_cfg: Config, folder: Path, whole: Path, switches: list[str] = EXACT) -> None:
    cfg = small_cfg(folder, *switches)
    OmegaConf.update(cfg, "resume", str(folder))
    train(cfg)
    _assert_same(folder, whole)


def _assert_same(folder: Path, whole: Path) -> None:
    """Weights, optimizer state and best checkpoint equal to the bit; the same validations in metrics.csv."""
    for which in ("best", "last"):
        ours = read_checkpoint(checkpoint_path(folder, which))
        theirs = read_checkpoint(checkpoint_path(whole, which))
        assert ours["state_dict"].keys() == theirs["state_dict"].keys()
        assert all(torch.equal(ours["state_dict"][k], v) for k, v in theirs["state_dict"].items())
        assert (ours["epoch"], ours["global_step"]) == (theirs["epoch"], theirs["global_step"])
    ours, theirs = ours["optimizer_states"][0]["state"], theirs["optimizer_states"][0]["state"]
    assert all(torch.equal(ours[i][k], v) for i, state in theirs.items() for k, v in state.items())

    def validations(run: Path) -> list[tuple[float, float, float]]:
        return [
            (row["epoch"], row["step"], row["val/loss"]) for row in read_metrics(run) if "val/loss" in row
        ]

    assert validations(folder) == validations(whole)
    steps = [row["step"] for row in read_metrics(folder) if "train/loss" in row]
    assert steps == sorted(set(steps)), "no step may be in metrics.csv twice"
