"""Owns what a part of an evaluation is: one question, asked of a policy, answered with figures.

In: a `Bench`, which holds the policy, its data and everything that was measured so far. Out: a section of report.json,
what the verdict says because of it, and a few cheap figures during training. A new question is a new class and a YAML
in conf/evaluation/part that an evaluation lists under `parts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from src.core.errors import ProjectError

if TYPE_CHECKING:
    from src.data.datamodule import EpisodeDataModule
    from src.evaluation.bench import Bench

Figures = dict[str, Any]
"""A section of the report: nested dictionaries of `Estimate`s, `PairedTest`s, `Verdict`s and plain values."""


class Part(ABC):
    """One part of an evaluation: offline, baselines, closed_loop, probes, latency, or a new one.

    Args:
        every_n_epochs: how often a light version runs during training, after the validation of the epoch, on
            validation data alone; None: never. It logs `<part>/<figure>` and cannot change what is trained.
    """

    def __init__(self, every_n_epochs: int | None = None) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ProjectError(
                f"evaluation.parts: every_n_epochs is {every_n_epochs}, expected 1 or more, or null for never."
            )
        self.every_n_epochs = every_n_epochs

    def check(self, horizon: int, datamodule: EpisodeDataModule) -> None:  # noqa: B027 - nothing to refuse
        """Refuse what could not be measured, or would be unfair; asked before the training, so it must be cheap.

        `horizon`: H, actions the policy predicts; `datamodule` is set up.
        """

    @abstractmethod
    def measure(self, bench: Bench) -> Figures:
        """The section of the report. Files go below `bench.folder` and their relative paths under the key `files`."""

    def verdict(self, figures: Figures, bench: Bench) -> Mapping[str, Any]:
        """What the first line says because of `figures`: `success` (str), `listens`, `looks`, `remembers`, `objects`
        (`Verdict`) or `not_beaten` (list of names). Later parts win over earlier ones."""
        return {}

    def glance(self, bench: Bench) -> dict[str, float]:
        """The light version: a few figures in seconds, from validation data and validation tasks only."""
        return {}
