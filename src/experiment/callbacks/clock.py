"""Owns the timing of a run: when the first optimizer step was done, how many windows per second, the epochs.

In: batches going by. Out: section `training` of run.json and `train/windows_per_s` for the loggers; windows are those
of all processes of the run together, seconds those of rank 0.
"""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from src.experiment.ranks import total
from src.experiment.run_record import RunRecord


def batch_size(batch: Any) -> int:
    """Windows (training samples) in a batch."""
    return len(batch.keys) if hasattr(batch, "keys") and not callable(batch.keys) else 1


class RunClock(Callback):
    """Measures the training loop; validation time is left out of the rate."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._windows, self._seconds, self._began = 0, 0.0, 0.0
        self._first = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        took = time.perf_counter() - self._began
        self._windows += batch_size(batch)
        self._seconds += took
        rate = self._windows / max(self._seconds, 1e-9)
        pl_module.log("train/windows_per_s", rate, sync_dist=True, reduce_fx="sum")
        if self._first and trainer.global_step > 0 and trainer.is_global_zero:
            self._first = False
            self.record.note("training", first_step_s=round(self.record.age_s, 2))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        windows = int(total(self._windows, trainer.strategy.root_device))
        if trainer.is_global_zero:
            self.record.note(
                "training",
                epochs=trainer.current_epoch,
                steps=trainer.global_step,
                windows=windows,
                windows_per_s=round(windows / max(self._seconds, 1e-9), 1),
                step_seconds=round(self._seconds, 2),
            )
