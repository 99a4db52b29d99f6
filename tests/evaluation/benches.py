"""A small real bench: demonstrations of the simulator's expert, a toy policy, two tasks per suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.data.datamodule import EpisodeDataModule
from src.data.normalizer import MinMaxNormalizer
from src.data.sampler import EpisodeSampler
from src.data.split import SplitRule
from src.evaluation.bench import Bench
from src.evaluation.driving.closed_loop import Suite
from src.model.policy import Policy
from src.sim.collect import collect
from tests.deploy.standins import SPACE, toy_policy


def demonstrations(folder: Path, episodes: int = 20, **options: Any) -> EpisodeDataModule:
    """`episodes` drives of full1 at 16 px, 70 % of them for training; `options` of the data module."""
    collect(folder, suite="full1", episodes=episodes, image_size=16, workers=1, progress=False)
    module = EpisodeDataModule(
        str(folder),
        SPACE,
        MinMaxNormalizer(),
        EpisodeSampler(4),
        SplitRule(0.7, 0.3, 0.0),
        3,
        4,
        16,
        **options,
    )
    module.bind(toy_policy().tokenize)
    module.setup("fit")
    return module


def small_bench(
    data: EpisodeDataModule,
    folder: Path,
    policy: Policy | None = None,
    split: str | None = "val",
    suites: Sequence[Suite] = (Suite("full1", "layout", 2), Suite("reach", "layout", 2)),
    **changes: Any,
) -> Bench:
    """The bench that an evaluation would build; `changes` of its other fields."""
    rest = {
        "run": None, "language": "en", "execute": 1, "temporal_ensemble": None, "batch_size": 50, "workers": 1,
        "seed": 0,
    }  # fmt: skip
    return Bench(
        policy=policy or toy_policy(),
        datamodule=data,
        folder=folder,
        split=split,
        suites=suites,
        **{**rest, **changes},
    )
