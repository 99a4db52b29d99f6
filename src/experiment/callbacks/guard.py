"""Owns the refusal to train on nonsense: a loss or gradient that is not finite stops the run before the step.

In: the loss before backward, gradients before the optimizer step. Out: a ProjectError that names the samples of
the batch, and `train/grad_norm` (before clipping) for the loggers. Costs one device synchronisation per step. Where
several processes train one run, all of them stop at what one of them saw.
"""

from collections import defaultdict
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from src.core.errors import ProjectError
from src.experiment.ranks import first_sentence


class NonFiniteGuard(Callback):
    """Stops the run at the first loss or gradient that is NaN or infinite."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, int]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._keys = list(getattr(batch, "keys", []))

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        fault = None
        if not bool(torch.isfinite(loss).all()):
            fault = self._sentence(f"the loss is {float(loss.detach().mean())}", trainer)
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
        fault = None
        if not bool(torch.isfinite(norm)):
            fault = self._sentence("the loss is finite but its gradient is not", trainer)
        _refuse(fault, trainer)
        pl_module.log("train/grad_norm", norm)

    def _sentence(self, what: str, trainer: pl.Trainer) -> str:
        return (
            f"step {trainer.global_step}: {what}, expected finite numbers; look at the samples of this batch "
            f"({describe_keys(self._keys)}), or lower optimizer.lr. No weight was changed by this step."
        )


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
