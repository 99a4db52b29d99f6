"""Light versions during training: logged under val/, and the training does not notice them."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict

from src.core.errors import ProjectError
from src.evaluation.base import Figures, Part
from src.evaluation.bench import Bench
from src.experiment.checkpoint import checkpoint_path, read_checkpoint
from src.train import train

CALLS: list[str | None] = []


class Disturbing(Part):
    """Draws from every source of random numbers, looks at the validation split, and leaves everything in eval mode."""

    def measure(self, bench: Bench) -> Figures:
        return {}

    def glance(self, bench: Bench) -> dict[str, float]:
        random.random(), np.random.rand(3), torch.rand(3)
        CALLS.append(bench.split)
        assert bench.policy.features is None, "probes show what no cache may answer"
        bench.policy.eval()
        return {"mean": float(bench.predicted.mean())}


def small(compose: Callable[..., Any], overrides: list[str], folder: Path, every: int | None) -> DictConfig:
    cfg: DictConfig = compose(
        "train", *overrides, f"run_folder={folder}", "trainer.max_epochs=2", "logger=csv"
    )
    part = {"_target_": f"{__name__}.Disturbing", "every_n_epochs": every}
    with open_dict(cfg):
        cfg.evaluation.parts.mine = part
    return cfg


@pytest.mark.slow
def test_it_is_logged_and_changes_no_weight(
    compose: Callable[..., Any], small_overrides: list[str], tmp_path: Path
) -> None:
    CALLS.clear()
    weights = {}
    for name, every in (("without", None), ("with", 2)):
        train(small(compose, small_overrides, tmp_path / name, every))
        weights[name] = read_checkpoint(checkpoint_path(tmp_path / name, "last"))["state_dict"]
    assert CALLS == ["val"]  # the second of two epochs
    rows = list(csv.DictReader((tmp_path / "with" / "metrics.csv").read_text().splitlines()))
    assert sum(bool(row["val/mine/mean"]) for row in rows) == 1
    for key, value in weights["without"].items():
        assert torch.equal(value, weights["with"][key]), key


def test_a_cadence_below_one_is_refused() -> None:
    with pytest.raises(ProjectError, match="every_n_epochs is 0"):
        Disturbing(0)
