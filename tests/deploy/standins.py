"""A small real Policy around a toy backbone: same interfaces, milliseconds instead of seconds."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from src.data.actions import ActionSpace
from src.data.normalizer import MinMaxNormalizer
from src.model.backbone.base import Backbone
from src.model.heads.lstm import LSTMHead
from src.model.history import PerFrame
from src.model.lora import FullPlacement
from src.model.policy import Policy

LIMIT = 1.15
SPACE = ActionSpace(
    names=("linear_x", "linear_y", "angular_z"),
    units=("m/s", "m/s", "rad/s"),
    low=(-LIMIT,) * 3,
    high=(LIMIT,) * 3,
    control_period=1 / 3,
    classes={
        "stop": (0, 0, 0),
        "forward": (1, 0, 0),
        "left": (0, 1, 0),
        "right": (0, -1, 0),
        "forward_left": (1, 1, 0),
        "forward_right": (1, -1, 0),
    },
)


class ToyBackbone(Backbone):
    """Average colours of a 4 x 4 grid and a bag of word codes, mixed by one layer."""

    def __init__(self, hidden: int = 12, queries: int = 2) -> None:
        super().__init__()
        self.hidden_size, self.num_queries, self.latents_per_frame, self.image_size = hidden, queries, 1, 16
        self.sites, self.parts, self.pad_token = {}, (), 0
        self.queries = nn.Parameter(torch.zeros(queries, hidden))
        self.network = nn.ModuleDict(
            {
                "look": nn.Linear(48, hidden),
                "read": nn.Embedding(64, hidden),
                "mix": nn.Linear(2 * hidden, queries * hidden),
            }
        )
        self.encoded = 0

    def use_frames(self, frames: int) -> None:
        assert frames == 1

    def words(self, instruction: str) -> list[int]:
        return [sum(map(ord, word)) % 63 + 1 for word in instruction.split()]

    def normalize(self, images: Tensor) -> Tensor:
        return images - 0.5

    def encode_images(self, pixels: Tensor) -> Tensor:
        self.encoded += len(pixels)
        return self.network["look"](nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1))[:, None]

    def encode(self, latents: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        words = (self.network["read"](ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        mixed = torch.tanh(self.network["mix"](torch.cat([latents[:, 0, 0], words], dim=-1)))
        return mixed.view(len(mixed), self.num_queries, self.hidden_size) + self.queries

    def image_flops(self) -> int:
        return 0

    def text_flops(self, tokens: int, frames: int = 1) -> int:
        return 0


def toy_policy(window: int = 3, horizon: int = 4, seed: int = 0) -> Policy:
    """Random weights that really depend on image, words and history."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        normalizer = MinMaxNormalizer()
        normalizer.fit(np.array([SPACE.low, SPACE.high]))
        head = partial(LSTMHead, layers=1, hidden_size=16, mlp=(16,))
        policy = Policy(ToyBackbone(), FullPlacement(), PerFrame(), head, SPACE, normalizer, window, horizon)
        for name, parameter in policy.named_parameters():
            if name == "backbone.queries":
                continue  # zeros: the toy needs none
            nn.init.normal_(parameter, std=0.7)
    return policy.eval()
