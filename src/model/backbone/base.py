"""The door every backbone stands behind.

Owns the contract between frames, instructions and states; knows nothing of windows, heads or losses.
In: `frames (N, 3, h, w)` uint8 RGB and one instruction per frame. Out: `states (N, Q, D)`.
The pass is split at the image latents, so that a frozen vision tower can be computed once per frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import ProjectError


class Backbone(nn.Module, ABC):
    """A vision-language model as the policy sees it.

    Attributes:
        hidden_size: D, width of a state.
        num_queries: Q, learned action queries per frame.
        latents_per_frame: P, image latents per frame.
        image_size: side of the square model input, pixels.
        sites: LoRA site name -> regular expression over full module paths below `vlm`; group 1, where the
            pattern has one, is the layer index ("last k layers" counts from the highest).
    """

    hidden_size: int
    num_queries: int
    latents_per_frame: int
    image_size: int
    sites: dict[str, str]
    vlm: nn.Module

    @abstractmethod
    def tokenize(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        """Prompted instructions as `ids (E, L)` int64 and `mask (E, L)` bool, right-padded.

        Raises:
            ProjectError: an instruction is empty or does not fit the text window.
        """

    @abstractmethod
    def normalize(self, images: Tensor) -> Tensor:
        """`(N, 3, S, S)` float in [0, 1] -> what the vision tower expects, same shape."""

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """`(N, 3, S, S)` float -> latents `(N, P, D)`."""

    @abstractmethod
    def encode(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """latents `(N, P, D)`, `ids (N, L)`, `mask (N, L)` -> states `(N, Q, D)` at the action queries."""

    @abstractmethod
    def flops(self, tokens: int) -> int:
        """Floating-point operations of one frame's forward pass with `tokens` prompt tokens."""

    def preprocess(self, frames: Tensor) -> Tensor:
        """`frames (N, 3, h, w)` uint8 -> pixels `(N, 3, S, S)` float, resized where needed, normalised.

        Raises:
            ProjectError: the frames are not uint8 RGB.
        """
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3:
            raise ProjectError(
                f"frames: found {tuple(frames.shape)} {frames.dtype}, expected (N, 3, h, w) uint8 RGB; "
                "pass the images as the data room stores them."
            )
        if frames.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True)
        return self.normalize(frames.float() / 255.0)

    def forward(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """`frames (N, 3, h, w)` uint8, `ids (N, L)`, `mask (N, L)` -> states `(N, Q, D)`."""
        return self.encode(self.encode_images(self.preprocess(frames)), ids, mask)
