"""Owns what the parts of one evaluation share: the policy, its data, the tasks, and whatever was measured already.

In: a policy and a data module (set up), the settings that hold for every part. Out: recorded truth and predictions,
rollouts per suite and driver, each computed when first asked for and then kept, so that no part pays for another and
the order of the parts changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import Tensor

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile
from src.deploy.predictor import BatchedPredictor
from src.evaluation.driving.closed_loop import Controller, PolicyController, Rollout, Suite, drive
from src.evaluation.driving.fleet import Fleet, ProcessFleet
from src.evaluation.offline import scores
from src.model.policy import Policy
from src.sim import Task


@dataclass
class Bench:
    """One evaluation at work.

    Attributes:
        policy: in eval mode, on its device.
        datamodule: set up and bound to the policy's tokeniser.
        folder: where files go (report, films, pictures).
        run: folder of the training run, for its curves and record; None where there is none.
        split: "train", "val" or "test": the recorded episodes to score; None: none are scored.
        suites: simulated tasks to drive; the first one is probed and filmed.
        language: of the instructions in the simulator.
        execute, temporal_ensemble: how the predictor carries out chunks.
        batch_size: environments side by side.
        workers: processes that simulate and draw; 1: this one.
        seed: of intervals, shuffles and heads that sample.
    """

    policy: Policy
    datamodule: EpisodeDataModule
    folder: Path
    run: Path | None
    split: str | None
    suites: Sequence[Suite]
    language: str
    execute: int
    temporal_ensemble: float | None
    batch_size: int
    workers: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    rollouts: dict[str, dict[str, list[Rollout]]] = field(default_factory=dict)
    """suite name → driver → rollouts, all on the same tasks or the first of them."""

    def __post_init__(self) -> None:
        self.policy.eval()
        self._fleet: Fleet | None = None
        self._tasks: dict[str, list[Task]] = {}

    @property
    def space(self) -> ActionSpace:
        return self.datamodule.action_space

    # ---- recorded drives

    @cached_property
    def episodes(self) -> list[EpisodeFile]:
        """The recorded episodes to score; their instructions are those that the batches show, then other wordings."""
        return self.datamodule.episodes(self._recorded)

    @cached_property
    def labels(self) -> dict[str, scores.Labels]:
        """Scenario and group per episode id."""
        return {e.id: scores.Labels(e.scenario, e.group) for e in self.episodes}

    def loader(self) -> Iterable[Batch]:
        """Whole episodes of the recorded split in fixed order."""
        data = self.datamodule
        return data.val_dataloader() if self._recorded == "val" else data.test_dataloader()

    def collect(self, change: Callable[[Batch], Batch] | None = None) -> tuple[scores.Truth, np.ndarray]:
        """What was recorded, and what the policy predicts (S, H, A) in SI units under a changed input."""
        return scores.collect(self.policy, self.loader(), self.labels, change, self.seed)

    @property
    def truth(self) -> scores.Truth:
        """What was recorded at the S frames of the split."""
        return self._scored[0]

    @property
    def predicted(self) -> np.ndarray:
        """(S, H, A) SI, what the policy predicts there."""
        return self._scored[1]

    @cached_property
    def mean_frame(self) -> Tensor:
        """(3, h, w) uint8, the mean image of the split."""
        return scores.mean_frame(self.loader())

    @cached_property
    def _scored(self) -> tuple[scores.Truth, np.ndarray]:
        with self.timed("predict recorded frames"):
            return self.collect()

    @property
    def _recorded(self) -> str:
        if self.split is None:
            raise ProjectError(
                "evaluation.split is null, so there are no recorded frames to score; choose val or test, or leave out "
                "the part that asks for them."
            )
        return self.split

    # ---- simulated drives

    def tasks(self, suite: Suite) -> list[Task]:
        """The tasks of a suite, always the same ones."""
        if suite.name not in self._tasks:
            self._tasks[suite.name] = suite.tasks(self.language)
        return self._tasks[suite.name]

    def driver(self, name: str = "policy") -> PolicyController:
        """The policy at the wheel, through the predictor that a robot uses."""
        predictor = BatchedPredictor(
            self.policy, self.datamodule.image_size, self.execute, self.temporal_ensemble
        )
        return PolicyController(predictor, name)

    def drive(self, controller: Controller, tasks: Sequence[Task]) -> list[Rollout]:
        """Drive every task once."""
        size = self.datamodule.image_size
        return drive(controller, tasks, size, self.batch_size, self._fleet, self.seed)

    def driven(
        self, suite: Suite, controller: Controller, tasks: Sequence[Task] | None = None
    ) -> list[Rollout]:
        """The rollouts of a driver on a suite (or on these tasks of it), driven now or before; kept under its name."""
        arms = self.rollouts.setdefault(suite.name, {})
        if controller.name not in arms:
            with self.timed(f"{suite.name}: {controller.name}"):
                arms[controller.name] = self.drive(controller, self.tasks(suite) if tasks is None else tasks)
        return arms[controller.name]

    def policy_rollouts(self, suite: Suite) -> list[Rollout]:
        """The policy on every task of the suite."""
        return self.driven(suite, self.driver())

    @contextmanager
    def simulators(self) -> Iterator[None]:
        """Processes that draw, for as long as something is driven; with one worker this process is as fast."""
        if self.workers < 2 or not self.suites:
            yield
            return
        with ProcessFleet(self.datamodule.image_size, self.workers) as self._fleet:
            yield
        self._fleet = None

    # ---- time

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Wall seconds of the block, added up under `what` in the report's timings."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
