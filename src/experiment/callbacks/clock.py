"""Owns the timing of a run: the first optimizer step, windows per second, what of the time waited for data, how much of
the machine's peak was used (MFU), and how long the rest will take.

In: batches going by. Out: section `training` of run.json; `train/windows_per_s`, `train/data_share` and `train/mfu`
for the loggers; the same and the time left for the progress display. Windows are those of all processes of the run
together; seconds, shares and MFU those of rank 0. A GPU is waited for where something is logged, not at every step, so
that its work and the loop's overlap and the sums are right all the same.
"""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from src.core.peak import Peak, arithmetic, peak
from src.experiment.ranks import total
from src.experiment.run_record import RunRecord
from src.model.flops import Flops, count_flops


def batch_size(batch: Any) -> int:
    """Windows (training samples) in a batch."""
    return len(batch.keys) if hasattr(batch, "keys") and not callable(batch.keys) else 1


def logs_now(trainer: pl.Trainer) -> bool:
    """Will Lightning hand the figures of this step to the loggers? Its own question (`log_every_n_steps`)."""
    return bool(trainer._logger_connector.should_update_logs)


class RunClock(Callback):
    """Measures the training loop; validation time is left out of the rates."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._windows, self._seconds, self._began = 0, 0.0, 0.0
        self._waited, self._waited_before = 0.0, 0.0
        self._first = True
        self._flops: Flops | None = None  # of a frame and a window, counted after the first step
        self._peak: Peak | None = None
        self._done_flops = 0.0
        self._batches, self._loop_began = 0, 0.0
        self._validations, self._validation_s, self._validation_began = 0, 0.0, 0.0

    # ---- what it knows

    @property
    def data_share(self) -> float:
        """Share of the time of the steps in which the loop waited for the next batch, 0 to 1."""
        return self._waited / max(self._waited + self._seconds, 1e-9)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs (src/model/flops.py) of the steps over time and peak, 0 to 1; None before the first step."""
        if self._peak is None:
            return None
        return self._done_flops / max(self._waited + self._seconds, 1e-9) / (self._peak.tflops * 1e12)

    def left_s(self, trainer: pl.Trainer) -> float | None:
        """Seconds the rest of the training will take at this pace, validations included as soon as one is known."""
        batches = total_batches(trainer)
        if batches is None or not self._batches:
            return None
        ahead = max(batches - trainer.fit_loop.total_batch_idx - 1, 0)
        loop = time.perf_counter() - self._loop_began - self._validation_s
        left = ahead * loop / self._batches
        if self._validations:
            left += _validations(trainer, ahead) * self._validation_s / self._validations
        return left

    # ---- what it sees

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._loop_began = time.perf_counter()
        self._validation_s, self._validations = 0.0, 0  # one repeated after a resume lies before this
        self._waited_before = _waited(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logs = logs_now(trainer)
        device = trainer.strategy.root_device
        if device.type == "cuda" and (logs or self._first or trainer.is_last_batch):
            torch.cuda.synchronize(device)
        self._seconds += time.perf_counter() - self._began
        self._waited = _waited(trainer) - self._waited_before
        self._windows += batch_size(batch)
        self._batches += 1
        if self._first and trainer.global_step > 0:
            self._first = False
            if trainer.is_global_zero:
                self.record.note("training", first_step_s=round(self.record.age_s, 2))
        if self._flops is None:
            self._count(trainer, pl_module, batch)
        if self._flops is not None:
            kept = getattr(pl_module, "features", None)
            from_cache = kept is not None and kept.in_training
            frames = len(batch.frames)
            self._done_flops += self._flops.step(frames, batch.size, 0 if from_cache else frames)
        if logs:
            rate = self._windows / max(self._seconds, 1e-9)
            pl_module.log("train/windows_per_s", rate, sync_dist=True, reduce_fx="sum")
            pl_module.log("train/data_share", self.data_share)
            if self.mfu is not None:
                pl_module.log("train/mfu", self.mfu)

    def _count(self, trainer: pl.Trainer, policy: Any, batch: Any) -> None:
        """Once, after the first batch: the cost of a frame with as many words as in it; every process takes part."""
        if not hasattr(policy, "encode_frames"):
            return  # no policy of ours
        words = int(batch.instruction_mask.sum(dim=1).float().mean().round())
        self._flops = count_flops(policy, words)
        weights = str(next(policy.backbone.network.parameters()).dtype).removeprefix("torch.")
        self._peak = peak(trainer.strategy.root_device, arithmetic(str(trainer.precision), weights))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_s += time.perf_counter() - self._validation_began
        self._validations += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        windows = int(total(self._windows, trainer.strategy.root_device))
        if trainer.is_global_zero:
            self.record.note(
                "training",
                epochs=trainer.current_epoch,
                steps=trainer.global_step,
                windows=windows,
                windows_per_s=round(windows / max(self._seconds, 1e-9), 1),
                step_seconds=round(self._seconds, 4),
                data_seconds=round(self._waited, 4),
                data_share=round(self.data_share, 4),
                validation_seconds=round(self._validation_s, 2),
                mfu=None if self.mfu is None else round(self.mfu, 4),
                peak_tflops=None if self._peak is None else round(self._peak.tflops, 4),
                peak_source=None if self._peak is None else self._peak.source,
            )


def total_batches(trainer: pl.Trainer) -> int | None:
    """Batches of the whole run, or None when only a time limit ends it."""
    batches, epochs, steps = trainer.num_training_batches, trainer.max_epochs, trainer.max_steps
    if steps is not None and steps >= 0:
        return int(steps * trainer.accumulate_grad_batches)
    if epochs is None or epochs < 0 or batches == float("inf"):
        return None
    return int(batches * epochs)


def _validations(trainer: pl.Trainer, ahead: int) -> float:
    """How many validations the next `ahead` batches bring."""
    between = float(trainer.val_check_batch or float("inf"))
    every = trainer.check_val_every_n_epoch
    return ahead / (between if every is None else between * every)


def _waited(trainer: pl.Trainer) -> float:
    """Seconds that the training loop has waited for batches; 0 for a loader that does not say."""
    return float(getattr(trainer.train_dataloader, "waited_s", 0.0))
