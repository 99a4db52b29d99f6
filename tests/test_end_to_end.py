"""The commands of the README as a user types them: real processes, real files, small models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data.builders import write_lab_file

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


@pytest.fixture(scope="module")
def lab_episodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files as the lab's recorder writes them: 18 frames of 720 x 1280, the scenario in the name only."""
    folder = tmp_path_factory.mktemp("lab")
    rng = np.random.default_rng(0)
    for index in range(10):
        side = ("left", "right")[index % 2]
        shades = rng.integers(0, 255, (18, 1, 1, 3), dtype=np.uint8)
        actions = np.zeros((18, 3), np.float32)
        actions[:, 0] = 1.15
        actions[4:8, 1] = 1.15 if side == "left" else -1.15
        name = f"episode_20260129_0104{index:02d}_basket_1box_hori_{side}_core_medium.h5"
        write_lab_file(folder / name, np.broadcast_to(shades, (18, 720, 1280, 3)).copy(), actions)
    return folder


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file layout of microsoft/kosmos-2-patch14-224 at 224 px, with one narrow layer."""
    from src.model.backbone.tiny import TinySizes, build_tiny

    folder = tmp_path_factory.mktemp("model") / "kosmos2"
    sizes = TinySizes(
        image_size=224,
        patch_size=56,
        vision_width=32,
        vision_layers=1,
        text_width=32,
        text_layers=1,
        latents=4,
    )
    corpus = ["Drive past the box on its left right side and stop at the target.", "An image of a robot"]
    build_tiny(folder, corpus, sizes)
    return folder


@pytest.mark.slow
def test_lab_files_train_end_to_end_with_the_full_size_preset(
    lab_episodes: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = run(
        "src.train", "model=kosmos_lora", "data=mobile_vla", f"data.root={lab_episodes}", "data.window=8",
        f"model.backbone.checkpoint={small_checkpoint}", "model.head.hidden_size=16", "model.head.mlp=[16]",
        "trainer.max_epochs=1", "evaluation=offline", f"hydra.run.dir={folder}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "run.json").read_text())
    assert record["state"] == "finished"
    assert (
        record["data"]["splits"]["train"]["frames_used"] == 18 * record["data"]["splits"]["train"]["episodes"]
    )
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["offline/mae/linear_x"] >= 0
    again = run("src.evaluate", f"run={folder}")
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "report.json").read_text())["metrics"] == report["metrics"]


@pytest.mark.slow
def test_the_full_size_preset_without_weights_says_what_to_do(tmp_path: Path, lab_episodes: Path) -> None:
    done = run(
        "src.train",
        "model=kosmos_lora",
        "data=mobile_vla",
        f"data.root={lab_episodes}",
        f"hydra.run.dir={tmp_path}",
    )
    assert done.returncode == 2
    assert "microsoft/kosmos-2-patch14-224" in done.stderr and "model=kosmos_tiny" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
