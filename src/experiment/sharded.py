"""Owns the Lightning strategy behind trainer=fsdp: frozen weights divided among processes, trained ones whole on each.

In: a policy whose `configure_model` divides the frozen weights (src/model/sharding.py). Out: gradients that are the
mean over processes, and checkpoints as one process writes them: only what trains is in them, and that is whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, Strategy
from torch import Tensor
from torch.optim import Optimizer


class FrozenSharded(ModelParallelStrategy):
    """FSDP2 for what is frozen, as DDP for what trains."""

    def __init__(self, processes: int) -> None:
        """
        Args:
            processes: of the run; the frozen weights are divided by so many.
        """
        super().__init__(
            data_parallel_size=processes, tensor_parallel_size=1, save_distributed_checkpoint=False
        )

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients over processes.

        With accumulated gradients this happens after every batch: the mean of what is the same everywhere is itself, so
        only the newest batch's share changes.
        """
        assert self.lightning_module is not None
        gradients = [p.grad for p in self.lightning_module.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.world_size
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: the policy says itself what of it belongs into a checkpoint."""
        return {}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As of one process, for what trains is whole."""
        return Strategy.optimizer_state(self, optimizer)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """As of one process."""
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """As of one process; every process reads the file."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)
