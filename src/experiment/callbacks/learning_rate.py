"""Owns `train/lr`: the learning rate of every group of weights, as the schedule sets it."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from src.experiment.callbacks.clock import logs_now


class LearningRate(Callback):
    """Logs `train/lr`, and `train/lr/<group>` where the groups have names and differ."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not logs_now(trainer):
            return  # a number on its way to a GPU makes the loop wait for it
        groups = trainer.optimizers[0].param_groups
        named = {str(group.get("name", index)): float(group["lr"]) for index, group in enumerate(groups)}
        pl_module.log("train/lr", next(iter(named.values())))
        if len(set(named.values())) > 1:
            for name, rate in named.items():
                pl_module.log(f"train/lr/{name}", rate)
