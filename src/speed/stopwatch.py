"""Owns time: the seconds of the steps of a real `trainer.fit`, where they go, ratios fit for a busy machine.

In: the events of Lightning's loop. Out: seconds, their split into phases, per way median and spread over rounds.

Seconds run from the end of one optimizer step to the end of a later one, so they hold all that a step costs: data,
transfer, arithmetic, callbacks, loggers. A phase is what Lightning's own profiler hooks enclose; what lies between
them is the last phase, so the phases add up to the whole. On a GPU the clock waits for the kernels at the borders of
phases, which costs some time: a fit that is split is not the one whose windows per second are reported.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler

from src.model.policy import Policy

PHASES = ("data", "encode", "head", "backward", "optimizer", "logging")
"""What a step consists of. `data`: next batch, transfer, augmentation; `encode`: frames to memories; `head`: memories
to loss; `optimizer`: clipping, step, zeroing; `logging`: `self.log`, callbacks, loggers and Lightning's loop."""

Clock = Callable[[], float]


class PhaseProfiler(Profiler):
    """Adds up seconds between `start` and `stop` of the actions that border phases; all others cost one comparison."""

    def __init__(self, settle: Callable[[], None], clock: Clock = time.perf_counter) -> None:
        """
        Args:
            settle: waits until the device has finished what it was given.
            clock: seconds.
        """
        super().__init__()
        self.settle, self.clock = settle, clock
        self.spent: dict[str, float] = {}
        self._open: dict[str, float] = {}

    def start(self, action_name: str) -> None:
        action = _action(action_name)
        if action in _INSIDE_FORWARD and "forward" not in self._open:
            return  # callbacks log too, outside of the step that `encode` is what remains of
        if action is not None:
            self.settle()
            self._open[action] = self.clock()

    def stop(self, action_name: str) -> None:
        action = _action(action_name)
        if action is not None and action in self._open:
            self.settle()
            self.spent[action] = self.spent.get(action, 0.0) + self.clock() - self._open.pop(action)

    def clear(self) -> None:
        """Forget what was spent so far; what is open stays open."""
        self.spent = {}

    def phases(self, seconds: float) -> dict[str, float]:
        """Seconds of each of `PHASES`, of `seconds` altogether."""
        spent = {name: self.spent.get(name, 0.0) for name in _ACTIONS}
        split = {
            "data": spent["next"] + spent["move"],
            "encode": spent["forward"] - spent["head"] - spent["log"],
            "head": spent["head"],
            "backward": spent["backward"],
            "optimizer": spent["batch"] - spent["forward"] - spent["backward"],
        }
        return {**split, "logging": seconds - sum(split.values())}


_ACTIONS = {
    "next": "train_dataloader_next",
    "move": ".batch_to_device",
    "batch": "run_training_batch",
    "forward": ".training_step",
    "backward": ".backward",
    "head": "head",
    "log": "log",
}
"""Action -> how Lightning's name of it ends (lightning 2.6); the last two are started by `watch`."""

_INSIDE_FORWARD = ("head", "log")
"""What is taken off the forward pass to know the frames' part of it."""


def _action(name: str) -> str | None:
    return next((action for action, ending in _ACTIONS.items() if name.endswith(ending)), None)


def watch(policy: Policy, profiler: Profiler) -> Callable[[], None]:
    """Let `profiler` see inside the policy's step: head with loss, and logging. Returns what undoes it."""
    parts = ((policy, "respond", "head"), (policy.head, "loss", "head"), (policy, "log", "log"))
    for owner, method, action in parts:
        owner.__dict__[method] = _profiled(getattr(owner, method), profiler, action)

    def undo() -> None:
        for owner, method, _ in parts:
            del owner.__dict__[method]

    return undo


def _profiled(function: Callable[..., Any], profiler: Profiler, action: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with profiler.profile(action):
            return function(*args, **kwargs)

    return call


class StepTimer(Callback):
    """Seconds of `steps` batches after the first `warmup` of a fit."""

    def __init__(
        self,
        warmup: int,
        steps: int,
        settle: Callable[[], None],
        profiler: PhaseProfiler | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        self.warmup, self.steps, self.settle, self.profiler, self.clock = (
            warmup,
            steps,
            settle,
            profiler,
            clock,
        )
        self._began = 0.0
        self.seconds: float | None = None
        self.phases: dict[str, float] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.done(batch_idx + 1)

    def done(self, batches: int) -> None:
        """So many batches of the fit are through."""
        if batches == self.warmup:
            self.settle()
            if self.profiler is not None:
                self.profiler.clear()
            self._began = self.clock()
        elif batches == self.warmup + self.steps:
            self.settle()
            self.seconds = self.clock() - self._began
            if self.profiler is not None:
                self.phases = self.profiler.phases(self.seconds)


# ---------------------------------------------------------------- rounds


@dataclass(frozen=True)
class Spread:
    """Of one value per round: the middle one, the lowest and the highest."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values), len(values))


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: each begins one place later, so no way is always the one after the same other."""
    first = round_number % len(names)
    return [*names[first:], *names[:first]]


def ratios(rates: Mapping[str, Sequence[float]], against: Mapping[str, str]) -> dict[str, Spread]:
    """Way -> how many times as fast as the one it is measured against, taken within each round.

    Both were timed in the same round, minutes apart at most, so a machine that is slow for a while slows both.

    Args:
        rates: way -> windows per second of every round.
        against: way -> the other one.
    """
    return {
        name: Spread.of([mine / other for mine, other in zip(rates[name], rates[against[name]], strict=True)])
        for name in rates
        if against[name] != name
    }
