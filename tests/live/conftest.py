"""The scene that all cases share: a tiny Kosmos-2, ten simulated drives, the shipped config made small."""

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from src.core.config import build
from tests.live.scene import SMALL, Scene


@pytest.fixture(scope="session")
def shipped(compose: Callable[..., Any]) -> DictConfig:
    """What `python -m src.train` composes, with a run folder, for Hydra gives one only to a real job."""
    cfg: DictConfig = compose("train", "run_folder=outputs/run")
    return cfg


@pytest.fixture(scope="session")
def scene(
    shipped: DictConfig, small_kosmos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    base = shipped.copy()
    for key, value in SMALL.items():
        OmegaConf.update(base, key, value, merge=False)
    base.model.backbone.checkpoint = str(small_kosmos)
    data = tmp_path_factory.mktemp("live") / "data"
    build(base.data.source)(data)
    base.data.root = str(data)
    folders, number = tmp_path_factory.mktemp("seen"), count()

    def fresh() -> Path:
        folder = folders / str(next(number))
        folder.mkdir()
        return folder

    yield Scene(base, data, fresh)
