"""The contract of a policy head.

In: `states (S, W, Q, D)` and `window_mask (S, W)`; the last position of a window is always valid, padding
stands on the left. Out: a prediction of the head's own shape, its loss terms, and decoded actions `(S, H, A)`.
Actions are normalised here; only the policy knows SI units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from src.model.codec import ActionCodec


class Head(nn.Module, ABC):
    """Models time over a window of states and predicts an action chunk."""

    def __init__(self, state_size: int, window: int, horizon: int, codec: ActionCodec) -> None:
        """
        Args:
            state_size: Q * D, one frame's states flattened.
            window: W, positions of the window; 1 where the backbone has already seen all its frames at once.
            horizon: H, actions per chunk.
            codec: the action space, and the way between SI units and normalised actions.
        """
        super().__init__()
        self.state_size, self.window, self.horizon = state_size, window, horizon
        self.codec, self.action_dim = codec, codec.dim

    def fit(self, actions: Tensor) -> None:  # noqa: B027  # most heads need no statistics
        """Takes what it needs of the training split's actions `(n, A)`, normalised, into buffers.

        Called once before training; a checkpoint brings the buffers back.
        """

    @abstractmethod
    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> prediction."""

    @abstractmethod
    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Named loss terms, `loss` being their total; padding counts nothing.

        Args:
            prediction: from `forward`.
            actions: `(S, H, A)` normalised.
            action_mask: `(S, H)` bool.
        """

    @abstractmethod
    def decode(self, prediction: Tensor) -> Tensor:
        """prediction -> normalised actions `(S, H, A)`, always the same for the same prediction."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values (S, H, A)` over the valid steps of `mask (S, H)`; a batch always has a valid step."""
    weights = mask[..., None].to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum()
