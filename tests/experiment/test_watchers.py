"""What watches a training: times and shares in the record, and a guard that waits for no device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch.utils._python_dispatch import TorchDispatchMode

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.experiment.csv_logger import read_metrics
from src.train import train

Config = Callable[..., DictConfig]


class Poison(Callback):
    """A callback that a run gets by its config: one batch has an action that is no number."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.before: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []
        LAST.append(self)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at and not self.before:
            self.before = [p.detach().clone() for p in pl_module.parameters() if p.requires_grad]
            batch.actions[0, 0, 0] = float("nan")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.after = [p.detach().clone() for p in pl_module.parameters() if p.requires_grad]


class CountReads(Callback):
    """A callback that a run gets by its config: how often each step read a single number from a tensor."""

    class Mode(TorchDispatchMode):
        reads = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.reads += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def __init__(self) -> None:
        self.steps: list[int] = []
        LAST.append(self)

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.mode = self.Mode()
        self.mode.__enter__()

    def on_before_zero_grad(
        self, *_: Any, **__: Any
    ) -> None:  # the optimizer's step, forward and loss lie inside
        self.seen = self.mode.reads

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self.mode.__exit__(None, None, None)
        self.steps.append(self.mode.reads)


LAST: list[Any] = []


@pytest.mark.parametrize("accumulate", [1, 2])
def test_no_weight_moves_after_a_nan_though_nobody_looks_at_once(
    small_cfg: Config, tmp_path: Path, accumulate: int
) -> None:
    cfg = small_cfg(tmp_path / "run", "trainer.log_every_n_steps=50")
    cfg.trainer.accumulate_grad_batches = accumulate
    cfg.trial = {"_target_": "tests.experiment.test_watchers.Poison", "at": 1}
    with pytest.raises(ProjectError, match=r"step 1: the loss is nan.*No weight was changed"):
        train(cfg)
    watch = LAST.pop()
    assert watch.before and len(watch.before) == len(watch.after)
    assert all(torch.equal(one, two) for one, two in zip(watch.before, watch.after, strict=True))


def test_a_step_reads_no_number_from_the_device_unless_it_logs(small_cfg: Config, tmp_path: Path) -> None:
    cfg = small_cfg(tmp_path / "run", "trainer.log_every_n_steps=50", "features=null")
    cfg.trial = {"_target_": "tests.experiment.test_watchers.CountReads"}
    train(cfg)
    steps = LAST.pop().steps
    assert steps[1:4] == [0, 0, 0], steps  # the first counts FLOPs, the fifth ends the epoch


def test_the_record_says_how_busy_the_machine_was(small_cfg: Config, tmp_path: Path) -> None:
    train(small_cfg(tmp_path / "run", "trainer.log_every_n_steps=1"))
    training = json.loads((tmp_path / "run" / "run.json").read_text())["training"]
    assert 0 < training["mfu"] < 1.5 and training["peak_tflops"] > 0 and "measured" in training["peak_source"]
    assert 0 < training["data_share"] < 1 and training["validation_seconds"] > 0
    waited = training["data_seconds"] / (training["data_seconds"] + training["step_seconds"])
    assert training["data_share"] == pytest.approx(waited, abs=0.02)
    rows = [row for row in read_metrics(tmp_path / "run") if row.get("train/mfu")]
    assert rows and all(0 <= float(row["train/data_share"]) <= 1 for row in rows)
