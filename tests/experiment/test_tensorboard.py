"""logger=tensorboard: real event files, read back with TensorBoard's own reader."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from src.core.errors import ProjectError
from src.experiment.csv_logger import CsvLogger, read_metrics, rewind
from src.experiment.run_record import RunRecord
from src.experiment.signals import Interrupted
from src.experiment.tensorboard_events import read_curves
from src.experiment.tensorboard_logger import FOLDER, RunTensorBoardLogger, summarise

CFG = OmegaConf.create({"name": "x", "seed": 3, "data": {"window": 2, "names": ["a", "b"]}, "resume": None})


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = read_curves(folder / FOLDER).scalars
    return {tag: [(point.step, point.value) for point in points] for tag, points in found.items()}


def train(record: RunRecord, first: int, last: int) -> None:
    """Log as a training does: the loss of every step, a validation after every second one."""
    loggers = [CsvLogger(record), RunTensorBoardLogger(record)]
    for step in range(first, last):
        for logger in loggers:
            logger.log_metrics({"train/loss": 1.0 / (step + 1), "epoch": step // 2}, step)
            if step % 2:
                logger.log_metrics({"val/loss": 2.0 / (step + 1), "epoch": step // 2}, step)
            logger.save()
    for logger in loggers:
        logger.finalize("success")


def test_the_curves_are_those_of_the_csv_and_the_config_is_there(tmp_path: Path) -> None:
    with RunRecord(tmp_path, CFG) as record:
        train(record, 0, 4)
        summarise(tmp_path, record.config, {"score": 0.5, "best/step": 3, "word": "no number"}, 4)
    found = curves(tmp_path)
    rows = read_metrics(tmp_path)
    for tag in ("train/loss", "val/loss"):
        assert found[tag] == [
            (int(row["step"]), pytest.approx(row[tag], rel=1e-7)) for row in rows if tag in row
        ]
    assert (
        found["final/score"] == [(4, 0.5)]
        and found["final/best/step"] == [(4, 3.0)]
        and "final/word" not in found
    )

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / FOLDER)).Reload()
    (text,) = events.Tensors("config/text_summary")
    assert b"window: 2" in text.tensor_proto.string_val[0]
    assert any("_hparams_" in tag for tag in events.summary_metadata), (
        "the HPARAMS page has something to show"
    )


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_resumed_run_has_no_step_twice_and_loses_none(tmp_path: Path, step: int) -> None:
    with pytest.raises(Interrupted), RunRecord(tmp_path, CFG) as record:
        train(record, 0, 5)
        record.note("checkpoints", last={"step": step})
        raise Interrupted(15)
    rewind(tmp_path, step)
    with RunRecord(tmp_path, CFG, resumed=True) as record:
        loggers = [CsvLogger(record), RunTensorBoardLogger(record)]
        for at in range(step - 1, 7):
            for logger in loggers:
                if at >= step:
                    logger.log_metrics({"train/loss": 1.0 / (at + 1), "epoch": at // 2}, at)
                if at % 2:  # the validation behind the checkpoint's step is repeated
                    logger.log_metrics({"val/loss": 2.0 / (at + 1), "epoch": at // 2}, at)
        for logger in loggers:
            logger.finalize("success")
    found = curves(tmp_path)
    assert [at for at, _ in found["train/loss"]] == list(range(7))
    assert [at for at, _ in found["val/loss"]] == [1, 3, 5]
    assert found["train/loss"] == [(at, pytest.approx(1.0 / (at + 1), rel=1e-6)) for at in range(7)]


def test_without_the_package_the_sentence_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with (
        RunRecord(tmp_path, CFG) as record,
        pytest.raises(ProjectError, match=r"pip install -e '.\[tensorboard\]'"),
    ):
        RunTensorBoardLogger(record)


class _Kill(BaseException):
    """Stands for a process that is gone: nothing of ours handles it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "hook",
    [
        "src.experiment.callbacks.clock.RunClock.on_train_batch_end",
        "src.experiment.callbacks.guard.NonFiniteGuard.on_validation_start",
    ],
)
def test_a_real_training_that_is_killed_goes_on_with_the_curves_of_its_csv(
    tmp_path: Path, small_cfg: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    import pkgutil

    from src.train import train as train_run

    original = pkgutil.resolve_name(hook)

    def kill(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == 5:  # the end of the first epoch
            raise _Kill
        original(self, trainer, *args, **kwargs)

    cfg = small_cfg(tmp_path / "run", "logger=tensorboard", "callbacks.checkpoint.every_n_steps=1")
    with monkeypatch.context() as patch, pytest.raises(_Kill):
        patch.setattr(hook, kill)
        train_run(cfg)
    OmegaConf.update(cfg, "resume", str(tmp_path / "run"))
    train_run(cfg)
    found, rows = curves(tmp_path / "run"), read_metrics(tmp_path / "run")
    for tag in ("train/loss", "val/loss"):
        logged = [(int(row["step"]), pytest.approx(row[tag], rel=1e-6)) for row in rows if tag in row]
        assert found[tag] == logged and len({step for step, _ in logged}) == len(logged) >= 2
