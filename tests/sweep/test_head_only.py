"""conf/sweep/head_only.yaml for real: two workers on one study and one store of states, and their figures are true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from src.core.cli import CONF
from tests.sweep.conftest import ROOT, finish


@pytest.fixture
def small(small_kosmos: Path, small_data: Path, tmp_path: Path) -> list[str]:
    """The preset on a handful of episodes; the data, the model and what is kept are in temporary folders."""
    return [
        "sweep=head_only",
        f"model.backbone.checkpoint={small_kosmos}",
        f"data.root={small_data}",
        "data.source=null",
        "data.image_size=32",
        "data.split.train=0.8",
        "data.split.val=0.2",
        "data.sampler.episodes_per_batch=4",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
        f"features.folder={tmp_path / 'features'}",
    ]


def test_every_head_of_the_preset_takes_every_key_of_it() -> None:
    """A point is one of every dimension, so a key that one head lacks would end that head's trials."""
    space = OmegaConf.load(CONF / "sweep" / "head_only.yaml").hydra.sweeper.params
    heads = str(space["model/head"]).split(",")
    assert len(heads) >= 3 and all((CONF / "model" / "head" / f"{head}.yaml").exists() for head in heads)
    assert not [key for key in space if key.startswith("model.head.")], "mlp has no hidden_size, gpt no mlp"


def test_what_it_holds_still_is_what_makes_trials_cheap(compose: Callable[..., Any]) -> None:
    cfg = compose("train", "sweep=head_only")
    assert cfg.model.lora["_target_"].endswith("HeadOnlyPlacement"), (
        "states change while something below trains"
    )
    assert (
        cfg.data.augmentation.mirror == 0
        and cfg.evaluation.parts.offline is None
        and list(cfg.logger) == ["csv"]
    )
    assert cfg.callbacks.checkpoint.monitor == "val/error"


@pytest.mark.slow
def test_two_workers_share_study_and_states_and_tell_the_truth(
    small: list[str], small_data: Path, compose: Callable[..., Any], tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "src.train", "-m", f"hydra.sweep.dir={folder}", *small, "hydra.sweeper.n_trials=3",
        "hydra.sweeper.enqueue=[]", "data.window=choice(2,3)", "model/head=lstm_tiny,mlp_tiny",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for _ in range(2)
    ]
    for worker in workers:
        finish(worker, timeout_s=400)
    found = json.loads((folder / "results.json").read_text())
    trials = [trial for trial in found["trials"] if trial["state"] == "complete"]
    assert len(trials) == 3 and found["counts"]["failed"] == 0

    stores = [path for path in (tmp_path / "features").iterdir() if path.is_dir()]
    assert len(stores) == 1, "the trials kept their states apart"
    known = int(np.count_nonzero(np.fromfile(stores[0] / "known.bin", np.uint32)))
    frames = sum(6 + index % 4 for index in range(len(list(small_data.glob("*.h5")))))
    assert known == frames, "one sentence per episode, so every frame is encoded once for all trials"

    from src.train import train

    point = [f"{key}={value}" for key, value in trials[-1]["params"].items()]
    cfg = compose("train", *small, *point, "features=null", f"run_folder={tmp_path / 'plain'}")
    figure = train(cfg)["best/val/error"]
    assert figure == pytest.approx(trials[-1]["values"]["best/val/error"], rel=1e-5)
