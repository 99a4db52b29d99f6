"""Owns when a run writes a checkpoint and how it goes on from one.

In: the training loop's events, a stop request. Out: checkpoints/best.safetensors after a validation that improved the
monitored metric; checkpoints/last.ckpt every n optimizer steps, at the end of each epoch and when asked to stop.

`last` is written between two batches only: after a whole optimizer step and *before* the validation that may
follow, so that a run killed while validating repeats that validation instead of losing it.
"""

import math
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from src.core.config import did_you_mean
from src.core.errors import ProjectError
from src.experiment.checkpoint import checkpoint_path, write_checkpoint
from src.experiment.ranks import agreed
from src.experiment.run_record import RunRecord
from src.experiment.signals import Interrupted, StopRequest


class RunCheckpoint(Callback):
    """Keeps the best and the last checkpoint of a run."""

    def __init__(
        self,
        record: RunRecord,
        stop: StopRequest,
        monitor: str,
        mode: Literal["min", "max"],
        every_n_steps: int | None,
    ) -> None:
        """
        Args:
            record: of the run; knows the folder and what a checkpoint says about itself.
            stop: asked after every optimizer step.
            monitor: validation metric that decides what is best, e.g. `val/loss`.
            mode: whether a small (`min`) or a large (`max`) value is good.
            every_n_steps: optimizer steps between two writes of `last`; null: once per epoch.

        Raises:
            ProjectError: every_n_steps is below 1.
        """
        if every_n_steps is not None and every_n_steps < 1:
            raise ProjectError(
                f"callbacks.checkpoint.every_n_steps: found {every_n_steps}, expected at least 1, or null."
            )
        self.record, self.stop = record, stop
        self.monitor, self.mode, self.every_n_steps = monitor, mode, every_n_steps
        self.best_score: float | None = None
        self.best_step: int | None = None
        self._pending_epoch: int | None = None  # of a validation that `last` is waiting for
        self._step = 0  # of the last optimizer step seen
        self._saved_step: int | None = None

    # ---- last

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.stop.install()
        self._step = trainer.global_step
        if trainer.ckpt_path is not None:
            self._saved_step = trainer.global_step
        _restore_loader(trainer)
        if self._pending_epoch is not None:
            _validate(trainer, self._pending_epoch)
            self._pending_epoch = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self._obey(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are being accumulated; they are in no checkpoint
        self._step = trainer.global_step
        validates = _validation_follows(trainer)
        due = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        if self._asked(trainer) or due or validates or trainer.is_last_batch:
            self._pending_epoch = trainer.current_epoch if validates else None
            self._save_last(trainer)
            self._pending_epoch = None

    def on_validation_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self._obey(trainer)

    def _obey(self, trainer: pl.Trainer) -> None:
        """Stop if asked to, but not before the step at hand is in `last` and its figures are logged."""
        saved = self._saved_step == trainer.global_step or trainer.global_step == 0
        asked = self._asked(trainer)
        if asked and saved:
            raise Interrupted(asked)

    def _asked(self, trainer: pl.Trainer) -> int:
        """The signal that reached this run, in whichever of its processes; 0: none. They stop after the same step."""
        asked = agreed(self.stop.requested or 0, trainer.strategy.root_device)
        if asked:
            self.stop.requested = asked
        return asked

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._saved_step != trainer.global_step and trainer.global_step > 0:
            self._save_last(trainer)
        if self.best_step is None and trainer.global_step > 0:
            print("No validation ran, so the best checkpoint is the last one.")
            self._save_best(trainer, pl_module, None)

    def _save_last(self, trainer: pl.Trainer) -> None:
        path = checkpoint_path(self.record.folder, "last")
        trainer.save_checkpoint(path)
        self._saved_step = trainer.global_step
        if trainer.is_global_zero:
            self.record.note("checkpoints", last={"bytes": path.stat().st_size, "step": self._saved_step})

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["about"] = self._about(pl_module)

    # ---- best

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        score = trainer.callback_metrics.get(self.monitor)
        if score is None:
            known = sorted(key for key in trainer.callback_metrics if key.startswith("val/"))
            raise ProjectError(
                f"callbacks.checkpoint.monitor: found {self.monitor!r}, expected a metric that validation logs "
                f"({', '.join(known) or 'it logs none'}){did_you_mean(self.monitor, known)}"
            )
        if self._is_better(float(score)):
            self._save_best(trainer, pl_module, float(score))

    def _is_better(self, score: float) -> bool:
        if math.isnan(score):
            return False
        if self.best_score is None:
            return True
        return score < self.best_score if self.mode == "min" else score > self.best_score

    def _save_best(self, trainer: pl.Trainer, module: Any, score: float | None) -> None:
        self.best_score, self.best_step = score, trainer.global_step
        # Asked for on every rank: reading divided weights changes what the next step has to exchange (FSDP2).
        weights = module.trained_state()
        if not trainer.is_global_zero:
            return
        metrics = {key: _finite(float(value)) for key, value in trainer.callback_metrics.items()}
        content = {
            "state_dict": weights,
            "about": self._about(module),
            "epoch": trainer.current_epoch,
            "global_step": trainer.global_step,
            "metrics": metrics,
        }
        size = write_checkpoint(checkpoint_path(self.record.folder, "best"), content)
        best = {"bytes": size, "step": self.best_step, "epoch": trainer.current_epoch, self.monitor: score}
        self.record.note("checkpoints", best=best)

    def _about(self, module: Any) -> dict[str, Any]:
        return {**self.record.about(), "action_space": module.action_space.to_dict()}

    # ---- going on

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best_score,
            "best_step": self.best_step,
            "pending_epoch": self._pending_epoch,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_step = state_dict["best_score"], state_dict["best_step"]
        self._pending_epoch = state_dict["pending_epoch"]


def _finite(value: float) -> float | None:
    """JSON has no NaN: an undefined figure is null."""
    return value if math.isfinite(value) else None


def _validation_follows(trainer: pl.Trainer) -> bool:
    """Will Lightning validate right after this batch? Its own question, asked one moment earlier."""
    loop = trainer.fit_loop
    if loop._data_fetcher is None or not trainer.enable_validation:
        return False
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def _restore_loader(trainer: pl.Trainer) -> None:
    """Give the training loader its place in the epoch back.

    Lightning does so when it first asks for the loader, but a schedule that needs the number of steps makes that
    happen before the checkpoint is restored, and then the place would be lost and the epoch begun again.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load and loop._data_fetcher is not None:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)


def _validate(trainer: pl.Trainer, epoch: int) -> None:
    """The validation of `epoch` a killed run did not finish. Lightning takes it for done and would skip it."""
    loop, progress = trainer.fit_loop.epoch_loop.val_loop, trainer.fit_loop.epoch_progress.current
    completed, progress.completed = progress.completed, epoch  # what `trainer.current_epoch` reads
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
    progress.completed = completed
