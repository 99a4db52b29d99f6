"""A finished run is read again, to be measured and to drive: within the frames at once that it was trained with, and
warm from the first command on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.core.errors import ProjectError
from src.deploy.predictor import Predictor
from src.evaluation.repeat import evaluate_run
from src.experiment.run_record import amend, read_record
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.train import train

MEASURED = [
    "evaluation=offline", "evaluation.split=val", "evaluation.parts.probes=null", "evaluation.parts.baselines=null",
    "evaluation.parts.latency=null", "evaluation.workers=1",
]  # fmt: skip
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., Any], small_overrides: list[str]
) -> Train:
    """`trained("auto")`: the folder of a run with that data.max_frames_per_batch, without evaluation; each once."""
    known: dict[str, Path] = {}

    def of(most: str) -> Path:
        if most not in known:
            folder = tmp_path_factory.mktemp("again") / "run"
            cfg = compose(
                "train", *small_overrides, f"run_folder={folder}", f"data.max_frames_per_batch={most}",
                "trainer.max_epochs=1",
            )  # fmt: skip
            cfg.evaluation = None
            train(cfg)
            known[most] = folder
        return known[most]

    return of


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames went through the vision tower in each of its calls."""
    calls: list[int] = []
    encode = Kosmos2Backbone.encode_images

    def noted(self: Kosmos2Backbone, pixels: torch.Tensor) -> torch.Tensor:
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Kosmos2Backbone, "encode_images", noted)
    return calls


@pytest.mark.slow
def test_it_is_measured_within_the_frames_at_once_of_its_training(
    trained: Train, compose: Callable[..., Any], together: list[int], tmp_path: Path
) -> None:
    """With `auto` that is the number which the run found; fewer frames at once give the same figures."""
    settings = compose("evaluate", *MEASURED).evaluation

    def measured(folder: Path, name: str) -> tuple[dict[str, float], int]:
        together.clear()
        report, out = evaluate_run(str(folder), "best", "cpu", name, settings, MEASURED)
        assert out == folder / "evaluations" / name and not report["failed"]
        return report["metrics"], max(together)

    folder = trained("auto")
    found = read_record(folder)["training"]["max_frames_per_batch"]
    whole, most = measured(folder, "whole")
    assert 0 < most <= found and whole["offline/error"] > 0

    tight = Path(shutil.copytree(folder, tmp_path / "tight"))
    amend(tight, training={**read_record(tight)["training"], "max_frames_per_batch": 4})
    figures, most = measured(tight, "tight")
    assert most == 4
    assert figures.keys() == whole.keys()
    assert figures == pytest.approx(whole, abs=1e-5, nan_ok=True)

    assert measured(trained("4"), "number")[1] == 4


@pytest.mark.slow
def test_it_drives_warm_from_the_first_command_on(trained: Train, together: list[int]) -> None:
    folder, text = trained("auto"), "drive to the red ball on its left side"
    camera = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
    cold = Predictor.from_run(folder, warm_up=False)
    assert not together, "nothing was encoded"
    warm = Predictor.from_run(folder, checkpoint="last")  # one epoch: the same weights
    assert together == [1, 1] and warm.batched.encoded_frames == 0
    with pytest.raises(ProjectError, match="before reset"):
        warm.step(camera[0])
    commands = []
    for predictor in (cold, warm):
        predictor.reset(text)
        commands.append(np.array([predictor.step(frame) for frame in camera]))
    assert together == [1] * (2 + 2 * len(camera)), "one new frame per step"
    np.testing.assert_array_equal(commands[0], commands[1])
    assert np.ptp(commands[0], axis=0).max() > 0, "it must react to what it sees"
    with pytest.raises(ProjectError, match=r"checkpoint"):
        Predictor.from_run(folder, checkpoint="first")
