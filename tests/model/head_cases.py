"""Small heads of every kind, windows and chunks of all lengths, and a few steps of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from src.core.cli import CONF
from src.data.actions import ActionSpace
from src.data.normalizer import MinMaxNormalizer
from src.model.codec import ActionCodec
from src.model.heads.base import Head
from src.model.heads.bins import BinsHead
from src.model.heads.classes import ClassesHead
from src.model.heads.flow import FlowHead
from src.model.heads.gpt import GPTHead
from src.model.heads.hybrid import HybridHead
from src.model.heads.lstm import LSTMHead
from src.model.heads.mlp import MLPHead

SMALL: dict[str, Any] = {"layers": 1, "hidden_size": 16, "mlp": [16]}
HEADS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "lstm": (LSTMHead, SMALL),
    "mlp": (MLPHead, {"mlp": [32]}),
    "gpt": (GPTHead, {"layers": 2, "hidden_size": 16, "attention_heads": 2}),
    "classes": (ClassesHead, SMALL),
    "hybrid": (HybridHead, SMALL),
    "bins": (BinsHead, {**SMALL, "bins": 16}),
    "flow": (FlowHead, {**SMALL, "field": [64, 64]}),
}
Q, D, S = 2, 3, 5
every_head = pytest.mark.parametrize("name", HEADS)
every_shape = pytest.mark.parametrize("horizon", [1, 4])
every_window = pytest.mark.parametrize("window", [1, 4])
every_space = pytest.mark.parametrize("space", ["omni3d", "diff_drive"])


def space_of(option: str, **changes: Any) -> ActionSpace:
    node = yaml.safe_load((CONF / "data" / "action" / f"{option}.yaml").read_text(encoding="utf-8"))
    return ActionSpace.from_dict({k: v for k, v in {**node, **changes}.items() if k != "_target_"})


def codec_of(option: str, **changes: Any) -> ActionCodec:
    """A normaliser that neither leaves actions as they are nor keeps zero at zero."""
    space = space_of(option, **changes)
    normalizer = MinMaxNormalizer()
    normalizer.fit(np.array([np.array(space.low) * 0.9, space.high]))
    return ActionCodec(space, normalizer)


def directions(codec: ActionCodec) -> Tensor:
    """(C, A) normalised: each class' direction at 0.8 of the limits."""
    physical = np.array(list(codec.space.classes.values())) * codec.space.scale * 0.8
    return codec.normalize(torch.tensor(physical, dtype=torch.float32))


def make(
    name: str, window: int = 4, horizon: int = 4, space: str = "omni3d", seed: int = 0, fit: bool = True, **more: Any
) -> Any:  # fmt: skip
    kind, options = HEADS[name]
    codec = codec_of(space)
    torch.manual_seed(seed)
    head = kind(state_size=Q * D, window=window, horizon=horizon, codec=codec, **{**options, **more})
    if fit:
        head.fit(directions(codec).repeat(3, 1))
    return head.eval()


def inputs(head: Head, samples: int = S, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random states, and windows of all lengths from one frame up to the whole."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(samples, head.window, Q, D, generator=generator)
    lengths = torch.arange(samples) % head.window + 1
    return states, torch.arange(head.window) >= head.window - lengths[:, None]


def targets(head: Head, samples: int = S, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Random normalised actions, chunks of all lengths."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.rand(samples, head.horizon, head.action_dim, generator=generator) * 1.6 - 0.8
    lengths = torch.arange(samples) % head.horizon + 1
    return actions, torch.arange(head.horizon) < lengths[:, None]


def learn(head: Head, states: Tensor, mask: Tensor, actions: Tensor, valid: Tensor, steps: int) -> None:
    """Adam on one batch, the learning rate falling to zero."""
    torch.manual_seed(0)
    head.train()
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        head.loss(head(states, mask), actions, valid)["loss"].backward()
        optimizer.step()
        schedule.step()
    head.eval()
