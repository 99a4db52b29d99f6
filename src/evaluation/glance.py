"""Owns the light versions of the evaluation during training: a few figures after every n-th validation.

In: the parts of the evaluation and the policy in training. Out: `val/<part>/<figure>` beside the other validation
figures, in every logger. What is trained does not change: dice, modes and loaders are left as they were found.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch

from src.evaluation.offline.scores import seeded

if TYPE_CHECKING:
    from src.data.datamodule import EpisodeDataModule
    from src.evaluation.evaluator import Evaluation
    from src.model.policy import Policy


class Glance(pl.Callback):
    """Asks every part that wants it for its light version.

    Args:
        evaluation: whose parts say how often.
        datamodule: of the training.
        folder: of the run.
    """

    def __init__(self, evaluation: Evaluation, datamodule: EpisodeDataModule, folder: Path) -> None:
        self.evaluation, self.datamodule, self.folder = evaluation, datamodule, folder

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        policy: Policy = pl_module  # type: ignore[assignment]
        due = [
            (name, part)
            for name, part in self.evaluation.parts.items()
            if part.every_n_epochs is not None and (trainer.current_epoch + 1) % part.every_n_epochs == 0
        ]
        if trainer.sanity_checking or not due or not self.datamodule.episodes("val"):
            return
        with _undisturbed(policy, self.evaluation.seed):
            bench = self.evaluation.bench(policy, self.datamodule, self.folder, self.folder, light=True)
            figures = {
                f"val/{name}/{key}": value for name, part in due for key, value in part.glance(bench).items()
            }
        for key, value in figures.items():
            pl_module.log(key, value, batch_size=1)


@contextmanager
def _undisturbed(policy: Policy, seed: int) -> Iterator[None]:
    """Every source of random numbers and the modes of all modules are afterwards what they were before."""
    modes = {module: module.training for module in policy.modules()}
    features, policy.features = policy.features, None  # probes show what is in no data set
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with seeded(seed, next(policy.parameters()).device), torch.inference_mode():
            yield
    finally:
        policy.features = features
        random.setstate(python)
        np.random.set_state(numpy_state)
        for module, mode in modes.items():
            module.training = mode
