"""Owns what a training run shows while it runs: one live line, and one lasting line per validation.

In: the training loop's events. Out: text on stdout. On a terminal a bar with loss, windows per second, MFU and
time left; in a log file only lasting lines, at least one every `quiet_s` seconds, so that logs stay readable. Where
several processes train one run, rank 0 speaks: of the loss of its own share, and of its windows times their number
(the exact figures, over all of them, are the loggers' and the record's). MFU and time left come from callbacks.clock
and are left out without it. The loss is read from the device when it is shown, not at every step.
"""

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from torch import Tensor

from src.experiment.callbacks.clock import RunClock, batch_size, total_batches

_REFRESH_S = 0.25


class RunProgress(Callback):
    """The progress display."""

    def __init__(self, quiet_s: float, monitor: str) -> None:
        """
        Args:
            quiet_s: longest silence in a log file, in s; a terminal is updated all the time.
            monitor: validation metric in the lasting line.
        """
        self.quiet_s, self.monitor = quiet_s, monitor
        self._console = Console(highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._loss: Tensor | float = 0.0  # sum since the last validation
        self._count, self._windows = 0, 0
        self._busy, self._batch_began, self._spoke = 0.0, 0.0, 0.0
        self._clock: RunClock | None = None
        self._began = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._spoke = time.perf_counter()
        parts = trainer.callbacks  # type: ignore[attr-defined]
        self._clock = next((part for part in parts if isinstance(part, RunClock)), None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._console.is_terminal and trainer.is_global_zero:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}  {task.fields[rate]}"),
                console=self._console, transient=True, refresh_per_second=1 / _REFRESH_S,
            )  # fmt: skip
            self._task = self._bar.add_task(
                "", total=total_batches(trainer), completed=trainer.fit_loop.total_batch_idx + 1,
                epoch=_epoch(trainer), loss="-", rate="-",
            )  # fmt: skip
            self._bar.start()

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        self._batch_began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self._busy += now - self._batch_began
        self._windows += batch_size(batch) * trainer.world_size
        self._loss = self._loss + outputs["loss"].detach()
        self._count += 1
        if self._bar is not None:
            if now - self._spoke < _REFRESH_S:
                self._bar.advance(self._task)
                return
            self._spoke = now
            rate, loss = self._speed() + self._left(trainer), f"{self._mean_loss():.4f}"
            self._bar.update(self._task, advance=1, epoch=_epoch(trainer), loss=loss, rate=rate)
        elif now - self._spoke > self.quiet_s and trainer.is_global_zero:
            done, total = trainer.fit_loop.total_batch_idx + 1, total_batches(trainer)
            self._say(
                f"epoch {_epoch(trainer)}  batch {done}/{total or '?'}  {self._figures()}{self._left(trainer)}"
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        text = "" if value is None else f"  {self.monitor} {float(value):.4f}"
        elapsed = _time(time.perf_counter() - self._began)
        self._say(
            f"epoch {_epoch(trainer)}  step {trainer.global_step:>6}  {self._figures()}{text}  {elapsed}"
        )
        self._loss, self._count = 0.0, 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _figures(self) -> str:
        if not self._count:  # a validation repeated after a resume
            return "loss -"
        return f"loss {self._mean_loss():.4f}  {self._speed()}"

    def _mean_loss(self) -> float:
        return float(self._loss) / self._count

    def _speed(self) -> str:
        mfu = None if self._clock is None else self._clock.mfu
        return f"{self._rate():.0f} windows/s" + ("" if mfu is None else f"  MFU {mfu:.1%}")

    def _left(self, trainer: pl.Trainer) -> str:
        left = None if self._clock is None else self._clock.left_s(trainer)
        return "" if left is None else f"  about {_time(left)} left"

    def _rate(self) -> float:
        return self._windows / max(self._busy, 1e-9)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
        self._spoke = time.perf_counter()


def _epoch(trainer: pl.Trainer) -> str:
    last = trainer.max_epochs
    return (
        f"{trainer.current_epoch + 1}/{last}"
        if last is not None and last > 0
        else str(trainer.current_epoch + 1)
    )


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
