"""Owns the door through which Hydra finds the search with Optuna: `hydra/sweeper=optuna`, or `sweep=<name>`.

In: `python -m src.train --multirun sweep=<name> [overrides]`. Out: whatever src/sweep/run.py makes of it. Hydra finds
this file by its place and imports it at every start, so nothing heavy is imported at the top.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Asks Optuna for the next trials and launches them; conf/hydra/sweeper/optuna.yaml explains the arguments."""

    def __init__(
        self,
        params: dict[str, Any],
        objectives: list[Any],
        report: dict[str, Any] | None,
        n_trials: int,
        n_jobs: int,
        storage: str | None,
        study_name: str | None,
        sampler: Any,
        pruner: Any,
        max_failure_rate: float,
        enqueue: list[Any],
        stale_after_s: float,
    ) -> None:
        self._settings: dict[str, Any] = {
            "params": _plain(params),
            "objectives": _plain(objectives),
            "report": _plain(report),
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "storage": storage,
            "study_name": study_name,
            "sampler": sampler,
            "pruner": pruner,
            "max_failure_rate": max_failure_rate,
            "enqueue": _plain(enqueue),
            "stale_after_s": stale_after_s,
        }
        self.config: DictConfig | None = None
        self.launcher: Launcher | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Search; see src/sweep/run.py for what it raises, besides an argument of another type."""
        from src.core.config import check
        from src.sweep.run import Settings, sweep

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        check(self.config.hydra.sweeper)  # Hydra built this object without looking at types
        launch = self.launcher.launch
        return sweep(
            Settings(**self._settings),
            self.config,
            arguments,
            lambda batch, first: launch(batch, initial_job_idx=first),
            self.hydra_context.config_loader,
        )


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
