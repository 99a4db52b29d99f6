"""Owns the randomness of a training step: a function of the run's seed and the step's number, and of nothing else.

In: `seed`. Out: Python, NumPy and torch (CPU and CUDA) generators seeded anew before every batch. So a resumed run
draws what the uninterrupted one drew, whatever validation, logging or a loader took from the generators between;
saved generator states could not promise that.
"""

import hashlib
import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


class StepSeed(Callback):
    """Seeds every generator before every training batch, differently on every rank."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.fit_loop.total_batch_idx
        text = f"{self.seed}/{trainer.global_rank}/{step}"
        value = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
        random.seed(value)
        np.random.seed(value % 2**32)
        torch.manual_seed(value)
