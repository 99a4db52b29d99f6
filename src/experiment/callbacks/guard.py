"""Owns the refusal to train on nonsense: no loss or gradient that is not finite reaches a weight, and it stops the run.

In: the loss before backward, gradients before the optimizer step. Out: a ProjectError that names the samples of
the batch, and `train/grad_norm` (before clipping) for the loggers.

A fused optimizer is told on the device: it leaves every weight as it is from the faulty step on (`found_inf`, the way
of torch's GradScaler), and the loop looks where something is logged, validated or written, so no step waits for the
device. Any other optimizer, and several processes that train one run, are stopped at the step itself; then all
processes stop at what one of them saw.
"""

from collections import defaultdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from src.core.errors import ProjectError
from src.experiment.callbacks.clock import logs_now
from src.experiment.ranks import first_sentence


class NonFiniteGuard(Callback):
    """Stops the run at the first loss or gradient that is NaN or infinite."""

    def __init__(self) -> None:
        self._keys: dict[
            int, list[tuple[str, int]]
        ] = {}  # optimizer step -> its samples, since the last look
        self._loss: Tensor | None = None  # of a fused step: whether its loss is at fault, and what it is
        self._value = torch.zeros(())
        self._fault: Tensor | None = (
            None  # of fused steps: 0, or 2 · step + 1 (loss) or + 2 (gradient) of the first
        )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._keys.setdefault(trainer.global_step, []).extend(getattr(batch, "keys", []))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        bad = ~torch.isfinite(loss.detach()).all()
        if _skips(trainer):
            self._loss = bad if self._loss is None else self._loss | bad
            value = loss.detach().float().mean()
            known = bad if self._fault is None else bad & (self._fault == 0)
            self._value = torch.where(known, value, self._value.to(value.device))
            return
        fault = None
        if bool(bad):
            fault = self._sentence(f"the loss is {float(loss.detach().mean())}", trainer.global_step)
        _refuse(fault, trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return  # fp16 loss scaling probes for overflow on purpose and skips such steps itself
        gradients = [
            p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        pl_module.log("train/grad_norm", norm)
        if _skips(trainer):
            self._tell(optimizer, ~torch.isfinite(norm), trainer.global_step)
            return
        fault = None
        if not bool(torch.isfinite(norm)):
            fault = self._sentence("the loss is finite but its gradient is not", trainer.global_step)
        self._keys.clear()
        _refuse(fault, trainer)

    def _tell(self, optimizer: Optimizer, gradient: Tensor, step: int) -> None:
        """Make the optimizer leave the weights alone from the first fault on; nothing is read here."""
        loss = torch.zeros_like(gradient) if self._loss is None else self._loss
        self._loss = None
        this = torch.where(loss, 2 * step + 1, torch.where(gradient, 2 * step + 2, 0))
        self._fault = this if self._fault is None else torch.where(self._fault > 0, self._fault, this)
        raw: Any = getattr(optimizer, "optimizer", optimizer)
        raw.found_inf = (self._fault > 0).float()

    def _look(self) -> None:
        """Read what the steps since the last look left on the device."""
        code = 0 if self._fault is None else int(self._fault)
        if code:
            step, gradient = divmod(code - 1, 2)
            what = (
                "the loss is finite but its gradient is not"
                if gradient
                else f"the loss is {float(self._value)}"
            )
            raise ProjectError(self._sentence(what, step))
        self._keys.clear()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if logs_now(trainer) or trainer.is_last_batch:
            self._look()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look()  # before a file says that steps were done which were left out

    def _sentence(self, what: str, step: int) -> str:
        return (
            f"step {step}: {what}, expected finite numbers; look at the samples of this batch "
            f"({describe_keys(self._keys.get(step, []))}), or lower optimizer.lr. No weight was changed by this step."
        )


def _skips(trainer: pl.Trainer) -> bool:
    """Can the optimizer leave out a step by itself, on the device?"""
    fused = all(group.get("fused") for group in trainer.optimizers[0].param_groups)
    return fused and trainer.world_size == 1 and getattr(trainer.precision_plugin, "scaler", None) is None


def _refuse(fault: str | None, trainer: pl.Trainer) -> None:
    """Stop every process of the run where one of them has a fault; nobody is left waiting for its gradients."""
    sentence = first_sentence(fault, trainer.strategy.root_device)
    if sentence is not None:
        raise ProjectError(sentence)


def describe_keys(keys: list[tuple[str, int]], limit: int = 8) -> str:
    """(episode id, t) pairs in words: `ep_01 frames 3-7, ep_02 frame 0`."""
    frames: dict[str, list[int]] = defaultdict(list)
    for episode, t in keys:
        frames[str(episode)].append(int(t))
    parts = []
    for episode, times in frames.items():
        low, high = min(times), max(times)
        parts.append(f"{episode} frame {low}" if low == high else f"{episode} frames {low}-{high}")
    more = f" and {len(parts) - limit} more episodes" if len(parts) > limit else ""
    return ", ".join(parts[:limit]) + more if parts else "it names none"
