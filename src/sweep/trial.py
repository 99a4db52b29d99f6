"""Owns the callback that makes a training run a trial of a study.

In: `trial` of the config, as the sweeper sets it. Out: the chosen metric in the study after every validation; `Pruned`
where the study's pruner gives the run up.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from optuna.pruners import BasePruner

from src.core.config import did_you_mean
from src.core.errors import ProjectError
from src.experiment.signals import Pruned
from src.sweep.reporter import Reporter


class TrialCallback(pl.Callback):
    """Reports to the study and obeys its pruner."""

    def __init__(self, storage: str, study: str, number: int, metric: str | None, pruner: BasePruner) -> None:
        """
        Args:
            storage: path of a journal or URL of a database.
            study: its name.
            number: of the trial.
            metric: a logged figure, e.g. val/loss; null: nothing is reported, the run only belongs to the study.
            pruner: decides after each report.
        """
        self.storage, self.study, self.number = storage, study, number
        self.metric, self.pruner = metric, pruner
        self.validations = 0
        self._reporter: Reporter | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.metric is not None and trainer.is_global_zero:
            self._reporter = Reporter(self.storage, self.study, self.number, self.pruner)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises:
        ProjectError: validation logs no such metric.
        Pruned: the study gives the run up.
        """
        if trainer.sanity_checking or self.metric is None:
            return
        self.validations += 1
        value = trainer.callback_metrics.get(self.metric)
        if value is None:
            known = sorted(key for key in trainer.callback_metrics if key.startswith("val/"))
            raise ProjectError(
                f"hydra.sweeper.report: found {self.metric}, expected a metric that validation logs "
                f"({', '.join(known) or 'it logs none'}){did_you_mean(self.metric, known) or '.'}"
            )
        # The first process decides for all: each has seen the same reduced figure, but only one talks to the study.
        prune = self._reporter is not None and self._reporter.report(float(value), self.validations)
        if trainer.strategy.broadcast(prune, src=0):
            raise Pruned(
                f"trial {self.number} of {self.study}: {self.metric} {float(value):.4g} after validation "
                f"{self.validations} is behind the other trials"
            )

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._reporter is not None:
            self._reporter.close()
            self._reporter = None

    # A resumed run counts on: a validation that was cut short is told once, under the same number.

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = int(state_dict["validations"])
