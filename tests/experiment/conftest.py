"""Training runs inside this process, as small as they get."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from src.train import train

Run = Callable[..., dict[str, float]]


@pytest.fixture
def small_cfg(compose: Callable[..., Any], small_overrides: list[str]) -> Callable[..., DictConfig]:
    """`small_cfg(folder, *overrides)`: the composed config of a small run into `folder`."""

    def composed(folder: Path, *overrides: str) -> DictConfig:
        cfg: DictConfig = compose("train", *small_overrides, f"run_folder={folder}", *overrides)
        cfg.evaluation = None
        return cfg

    return composed


@pytest.fixture
def run(small_cfg: Callable[..., DictConfig]) -> Run:
    """`run(folder, *overrides)`: train; returns the figures."""

    def trained(folder: Path, *overrides: str) -> dict[str, float]:
        return train(small_cfg(folder, *overrides))

    return trained
