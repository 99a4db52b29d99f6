"""Fixtures for every room: a quiet offline process, composed configs, a tiny Kosmos-2, a handful of episodes."""

import os

# Before torch is imported: tests run side by side, one thread each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    WANDB_MODE="offline", WANDB_SILENT="true", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
Compose = Callable[..., Any]

# How long an example takes depends on what else the machine does, and says nothing about the code.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def compose() -> Compose:
    """`compose("train", "data.window=4", …)`: the config as the command line would compose it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    from src.core.overrides import register_resolvers

    register_resolvers()

    def composed(name: str, *overrides: str) -> Any:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return hydra_compose(name, overrides=list(overrides))

    return composed


@pytest.fixture(scope="session")
def small_kosmos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Kosmos-2 of 32 px and one layer, in the layout of the real one."""
    from src.model.backbone.tiny import TinySizes, build_tiny

    folder = tmp_path_factory.mktemp("model") / "kosmos"
    sizes = TinySizes(
        image_size=32, patch_size=16, vision_width=32, vision_layers=1, text_width=32, text_layers=1, heads=2,
        latents=4, max_tokens=96,
    )  # fmt: skip
    corpus = ["drive to the red ball and pass the box on its left right side", "An image of a robot"]
    build_tiny(folder, corpus, sizes)
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 12 episodes of 6 to 9 noisy frames of 32 px, actions drawn at random (seeded)."""
    from src.data.episode import Episode, write_episode

    folder = tmp_path_factory.mktemp("data") / "episodes"
    rng = np.random.default_rng(0)
    for index in range(12):
        length = 6 + index % 4
        episode = Episode(
            id=f"ep_{index:02d}",
            frames=rng.integers(0, 256, (length, 32, 32, 3), dtype=np.uint8),
            actions=rng.uniform(-1.15, 1.15, (length, 3)).astype(np.float32),
            instructions=(f"drive to the red ball on its {'left' if index % 2 else 'right'} side",),
            action_names=("linear_x", "linear_y", "angular_z"),
            action_units=("m/s", "m/s", "rad/s"),
            control_period=1 / 3,
            scenario=f"scene_{index % 2}",
            group=f"group_{index}",
        )
        write_episode(folder / f"{episode.id}.h5", episode)
    return folder


@pytest.fixture(scope="session")
def small_overrides(small_kosmos: Path, small_data: Path) -> list[str]:
    """Overrides of conf/train.yaml for a run of a second: 2 epochs of 5 batches on `small_data`."""
    return [
        f"model.backbone.checkpoint={small_kosmos}",
        "model.lora.rank=2",
        "model.head.hidden_size=8",
        "model.head.mlp=[8]",
        f"data.root={small_data}",
        "data.source=null",
        "data.image_size=32",
        "data.window=3",
        "data.horizon=2",
        "data.split.train=0.8",
        "data.split.val=0.2",
        "data.sampler.episodes_per_batch=2",
        "trainer.max_epochs=2",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "evaluation=none",
        "logger=csv",
    ]
