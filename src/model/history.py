"""Owns how a window of frames becomes states: each frame on its own, or all in one sequence of the VLM.

    per_frame     frame -> state, W states -> head          the head models time; a frame's state serves every window
    interleaved   W frames -> one sequence -> one state     the VLM models time; a frame's latents serve every window

In both, what is computed once per distinct frame is its *memory* (states or latents). Training gathers memories into
windows; a robot keeps the last W of them. So each frame is seen once by the vision tower, however long the window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.model.backbone.base import Backbone


class History(ABC):
    """How frames of a window come together.

    Attributes:
        per_frame: whether the text model reads each frame alone.
    """

    per_frame: bool

    @abstractmethod
    def positions(self, backbone: Backbone, window: int) -> int:
        """How many states per window the head will see; prepares `backbone` for it.

        Raises:
            ProjectError: the backbone cannot read so many frames at once.
        """

    @abstractmethod
    def remember(self, backbone: Backbone, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Latents `(N, P, C)`, `ids (N, L)`, `mask (N, L)` -> memory `(N, …)`, one per frame."""

    @abstractmethod
    def states(
        self, backbone: Backbone, memory: Tensor, window_mask: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What the head reads.

        Args:
            memory: `(S, W, …)`, gathered into windows, oldest first.
            window_mask: `(S, W)` bool, padding on the left.
            ids, mask: `(S, L)`, the instruction of each sample.

        Returns:
            States `(S, positions, Q, D)` and their mask `(S, positions)`.
        """


class PerFrame(History):
    """Each frame goes through the whole backbone alone; its memory is its state `(Q, D)`."""

    per_frame = True

    def positions(self, backbone: Backbone, window: int) -> int:
        backbone.use_frames(1)
        return window

    def remember(self, backbone: Backbone, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return backbone.encode_alone(latents, ids, mask)

    def states(
        self, backbone: Backbone, memory: Tensor, window_mask: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        return memory, window_mask


class Interleaved(History):
    """All frames of a window stand in one sequence, oldest first; a frame's memory is its latents `(P, C)`.

    The text model runs once per window on up to W times the latents, so it costs about W times `per_frame`; the
    vision tower still sees each frame once.
    """

    per_frame = False

    def positions(self, backbone: Backbone, window: int) -> int:
        if window < 2:
            raise ProjectError(
                f"data.window: found {window}, expected at least 2 with model/history=interleaved; enlarge the "
                "window, or choose model/history=per_frame, which is the same for one frame."
            )
        backbone.use_frames(window)
        return 1

    def remember(self, backbone: Backbone, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        return latents

    def states(
        self, backbone: Backbone, memory: Tensor, window_mask: Tensor, ids: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        states = backbone.encode(memory, window_mask, ids, mask)[:, None]
        return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
