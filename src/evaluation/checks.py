"""Owns the questions whether an evaluation can be done at all, and whether it would be a fair one.

In: evaluation settings, the data module (set up), the horizon of the policy; what a checkpoint says of its data.
Out: nothing, or a ProjectError with the fix. All is cheap, so that it is asked before a training and not after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.datamodule import EpisodeDataModule
from src.data.episode import EpisodeFile
from src.evaluation.driving.closed_loop import Suite
from src.experiment.checkpoint import other_data
from src.sim import SUITE_VERSION
from src.sim.recording import ACTION_NAMES

Key = tuple[str, str, int]


def check_planning(execute: int, temporal_ensemble: float | None, horizon: int) -> None:
    """`execute` actions of a chunk of `horizon` can be carried out."""
    if not 1 <= execute <= horizon:
        raise ProjectError(
            f"evaluation.execute is {execute}, but the policy predicts {horizon} actions (data.horizon); "
            f"choose evaluation.execute from 1 to {horizon}, or train with a longer data.horizon."
        )
    if temporal_ensemble is not None and execute != 1:
        raise ProjectError(
            f"evaluation.temporal_ensemble needs a chunk at every step, but evaluation.execute is {execute}; "
            "set evaluation.execute=1 or evaluation.temporal_ensemble=null."
        )


def check_axes(suites: Sequence[Suite], space: ActionSpace) -> None:
    """The simulator understands the actions of the data."""
    if suites and tuple(space.names) != ACTION_NAMES:
        raise ProjectError(
            f"evaluation.suites drives {suites[0].name} with the axes {', '.join(ACTION_NAMES)}, but data.action has "
            f"{', '.join(space.names)}; choose evaluation=offline, or a data.action with these axes."
        )


def check_split(split: str | None, datamodule: EpisodeDataModule) -> None:
    """The recorded episodes to score exist."""
    if split is not None and not datamodule.episodes(split):
        other = "val" if split == "test" and datamodule.episodes("val") else "null"
        raise ProjectError(
            f"evaluation.split is {split}, but the data has no {split} split (data.split.{split} is 0); "
            f"set data.split.{split} above 0 and train anew, or choose evaluation.split={other}."
        )


def check_unseen(suites: Sequence[Suite], datamodule: EpisodeDataModule) -> None:
    """No task to be driven was trained on or chose the checkpoint."""
    seen = recorded_tasks([*datamodule.episodes("train"), *datamodule.episodes("val")])
    for suite in suites:
        known = sum((suite.suite, suite.split, index) in seen for index in range(suite.episodes))
        if known:
            raise ProjectError(
                f"evaluation.suites: {known} of the {suite.episodes} tasks of {suite.name} are in the training or "
                f"validation data, so driving them shows nothing new; train on others (data.source.split=train) or "
                "drive others (evaluation.suites)."
            )


def recorded_tasks(episodes: Iterable[EpisodeFile]) -> set[Key]:
    """(suite, split, index) of the simulated tasks that were recorded; episodes from elsewhere have none.

    Twins of a layout share its index: the same room under other words is no new task.
    """
    return {
        (str(facts["suite"]), str(facts["split"]), int(facts["index"]))
        for facts in (episode.attributes for episode in episodes)
        if {"suite", "split", "index"} <= facts.keys() and facts.get("suite_version") == SUITE_VERSION
    }


def check_same_data(run: Path, trained_on: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """The data, who is in which split and what is said to whom are those the run was trained with.

    `trained_on`: what the checkpoint says of its data; `found`: the manifest of the data module.
    """
    difference = other_data(trained_on, found)
    if difference is not None:
        raise ProjectError(f"run {run} was trained {difference}.")
