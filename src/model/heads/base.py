"""The contract of a policy head.

In: `states (S, W, Q, D)` and `window_mask (S, W)`; the last position of a window is always valid, padding
stands on the left. Out: a prediction of the head's own shape, its loss terms, and decoded actions `(S, H, A)`.
Actions are normalised here; only the policy knows SI units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Head(nn.Module, ABC):
    """Models time over a window of states and predicts an action chunk."""

    def __init__(self, state_size: int, horizon: int, action_dim: int) -> None:
        """
        Args:
            state_size: Q * D, one frame's states flattened.
            horizon: H, actions per chunk.
            action_dim: A.
        """
        super().__init__()
        self.state_size, self.horizon, self.action_dim = state_size, horizon, action_dim

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
        """prediction -> normalised actions `(S, H, A)`."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values (S, H, A)` over the valid steps of `mask (S, H)`; a batch always has a valid step."""
    weights = mask[..., None].to(values.dtype).expand_as(values)
    return (values * weights).sum() / weights.sum()
