"""Small random models in the file layout of the real ones, built once per test session."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.data.normalizer import MinMaxNormalizer
from src.model.backbone.base import Backbone
from src.model.backbone.kosmos2 import Kosmos2Backbone
from src.model.backbone.tiny import TinySizes, build_tiny
from src.model.heads.base import Head
from src.model.heads.lstm import LSTMHead
from src.model.history import History, PerFrame
from src.model.lora import LoraPlacement, Placement
from src.model.optim import adamw
from src.model.policy import Policy

INSTRUCTIONS = [
    "navigate around the box to the left and reach the red ball",
    "go to the blue can",
    "pass the first box on the right and the second box on the left, then reach the green cube",
]
SIZES = TinySizes(
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=2,
    text_width=32,
    text_layers=2,
    latents=4,
    max_tokens=128,
)
PROMPT_WORDS = "An image of a robot"


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kosmos2")
    build_tiny(folder, [*INSTRUCTIONS, PROMPT_WORDS], SIZES)
    return folder


@pytest.fixture()
def backbone(tiny_checkpoint: Path) -> Kosmos2Backbone:
    torch.manual_seed(0)
    return Kosmos2Backbone(str(tiny_checkpoint), num_queries=2).eval()


@pytest.fixture()
def action_space() -> ActionSpace:
    return ActionSpace(
        names=("linear_x", "linear_y", "angular_z"),
        units=("m/s", "m/s", "rad/s"),
        low=(-1.15, -1.15, -1.15),
        high=(1.15, 1.15, 1.15),
        control_period=1 / 3,
        classes={"stop": (0.0, 0.0, 0.0), "forward": (1.0, 0.0, 0.0), "left": (0.0, 1.0, 0.0)},
    )


@pytest.fixture()
def make_policy(tiny_checkpoint: Path, action_space: ActionSpace) -> Callable[..., Policy]:
    def make(
        placement: Placement | None = None,
        window: int = 4,
        horizon: int = 3,
        seed: int = 0,
        backbone: Backbone | None = None,
        history: History | None = None,
        head: Callable[..., Head] | None = None,
        compile: bool = False,
    ) -> Policy:
        torch.manual_seed(seed)
        normalizer = MinMaxNormalizer()
        normalizer.fit(np.array([[-1.0, -0.5, -1.0], [1.0, 0.5, 1.0]]))
        return Policy(
            backbone=backbone or Kosmos2Backbone(str(tiny_checkpoint), num_queries=1),
            lora=placement or LoraPlacement({"text_attention": "all", "text_mlp": "all"}, 4, 8, 0.0),
            history=history or PerFrame(),
            head=head or partial(LSTMHead, layers=2, hidden_size=16, mlp=[16]),
            action_space=action_space,
            normalizer=normalizer,
            window=window,
            horizon=horizon,
            compile=compile,
            optimizer=partial(adamw, lr=1e-2),
        )

    return make


def frames(count: int, seed: int = 0, size: int = 32) -> torch.Tensor:
    """Random pictures (count, 3, size, size) uint8."""
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def episode_batch(policy: Policy, lengths: tuple[int, ...] = (6, 4), seed: int = 0) -> Batch:
    """Every frame of whole episodes as a sample, packed as the data room packs them."""
    generator = torch.Generator().manual_seed(seed)
    ids, mask = policy.tokenize(INSTRUCTIONS[: len(lengths)])
    windows, owner, keys, first = [], [], [], 0
    for row, length in enumerate(lengths):
        for t in range(length):
            history = [first + s if s >= 0 else -1 for s in range(t - policy.window + 1, t + 1)]
            windows.append(history)
            keys.append((f"episode{row}", t))
        owner += [row] * length
        first += length
    samples = len(windows)
    action_mask = torch.rand(samples, policy.horizon, generator=generator) < 0.8
    action_mask[:, 0] = True
    action_mask = action_mask.cumprod(dim=1).bool()
    actions = torch.rand(samples, policy.horizon, 3, generator=generator) * 2 - 1
    return Batch(
        frames=frames(first, seed),
        episode=torch.tensor(owner),
        instruction_ids=ids,
        instruction_mask=mask,
        windows=torch.tensor(windows),
        actions=actions * action_mask[..., None],
        action_mask=action_mask,
        keys=keys,
    )


def window_batch(batch: Batch, sample: int) -> Batch:
    """One sample of a packed batch alone, with only its own frames: the reference without sharing."""
    rows = [row for row in batch.windows[sample].tolist() if row >= 0]
    window = [-1] * (batch.windows.shape[1] - len(rows)) + list(range(len(rows)))
    owner = int(batch.episode[rows[-1]])
    length = int(batch.instruction_mask[owner].sum())
    return Batch(
        frames=batch.frames[rows],
        episode=torch.zeros(len(rows), dtype=torch.int64),
        instruction_ids=batch.instruction_ids[owner : owner + 1, :length],
        instruction_mask=batch.instruction_mask[owner : owner + 1, :length],
        windows=torch.tensor([window]),
        actions=batch.actions[sample : sample + 1],
        action_mask=batch.action_mask[sample : sample + 1],
        keys=[batch.keys[sample]],
    )
