"""Each axis cut into bins: cross-entropy over the bins of each axis and step.

In: states over the window; the training actions, once. Out: logits `(S, H, A, B)`; the likeliest bin decodes to its
centre. After RT-1 (Brohan et al. 2022, arXiv:2212.06817) and OpenVLA (Kim et al. 2024, arXiv:2406.09246), 256 bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.base import masked_mean
from src.model.heads.encoder import WindowEncoder
from src.model.heads.fitted import FittedHead
from src.model.heads.regression import clean_targets


class BinsHead(FittedHead):
    """Predicts logits `(S, H, A, B)`, B bins per axis.

    The first and the last bin have their centres *on* the ends of the range, as in RT-1's code, so the largest
    training action of an axis comes back exactly: centre k is low + k * (high - low) / (B - 1). An action within the
    range is off by at most half a bin; one outside moves to its end.

    Two ways to answer one situation stay two bins, and the likelier one is chosen. The axes choose apart from each
    other: where the ways differ in two axes, a mixture of both can come out. `flow` has no such limit.

    Buffers, filled by `fit` or a checkpoint: `low`, `high` `(A,)` normalised, the range of the bins' centres.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        state_size: int,
        window: int,
        horizon: int,
        codec: ActionCodec,
        layers: int = 4,
        hidden_size: int = 1024,
        mlp: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        bins: int = 256,
        quantile: float = 0.0,
    ) -> None:
        """
        Args:
            layers, hidden_size, mlp, dropout: of the window's encoder, those of the LSTM head.
            bins: B per axis.
            quantile: share of the training actions cut off at each end of an axis before its range is taken, 0 to
                below 0.5. OpenVLA takes 0.01 against stray values of arms. A mobile base hardly ever drives backwards
                (0.7 % of the frames of `data=sim`), and a range without these could not: 0 takes the extremes.

        Raises:
            ProjectError: an option out of its range.
        """
        super().__init__(state_size, window, horizon, codec)
        checks.at_least(2, bins=bins)
        if not 0 <= quantile < 0.5:
            raise checks.refuse("quantile", quantile, "0 or more and below 0.5")
        self.bins, self.quantile = bins, quantile
        self.encoder = WindowEncoder(state_size, layers, hidden_size, mlp, dropout)
        self.output = nn.Linear(self.encoder.size, horizon * self.action_dim * bins)
        self.register_buffer("low", torch.zeros(self.action_dim))
        self.register_buffer("high", torch.zeros(self.action_dim))

    def take(self, actions: Tensor) -> None:
        """The range of each axis of `actions (n, A)`, normalised."""
        low, high = np.quantile(actions.numpy(), [self.quantile, 1 - self.quantile], axis=0)
        self.low.copy_(torch.as_tensor(low))
        self.high.copy_(torch.as_tensor(high))

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, H, A, B)`."""
        prediction: Tensor = self.output(self.encoder(states, window_mask))
        return prediction.view(-1, self.horizon, self.action_dim, self.bins)

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Terms `loss` and `bins`, the same number: cross-entropy, mean over valid steps and axes."""
        targets = self.to_bins(clean_targets(actions, action_mask))
        entropy = F.cross_entropy(prediction.float().movedim(-1, 1), targets, reduction="none")
        mean = masked_mean(entropy, action_mask)
        return {"loss": mean, "bins": mean.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        """`(S, H, A, B)` -> `(S, H, A)` normalised: the centre of the likeliest bin of each axis."""
        return self.from_bins(prediction.argmax(dim=-1))

    def to_bins(self, actions: Tensor) -> Tensor:
        """`(..., A)` normalised -> `(..., A)` int64, the bin with the nearest centre.

        Raises:
            ProjectError: used before `fit`.
        """
        self.require_fit()
        width = (self.high - self.low) / (self.bins - 1)
        width = torch.where(width > 0, width, torch.ones_like(width))  # an axis that never moves has one bin
        return ((actions - self.low) / width).round().clamp(0, self.bins - 1).long()

    def from_bins(self, index: Tensor) -> Tensor:
        """`(..., A)` int64 bins -> `(..., A)` normalised, their centres.

        Raises:
            ProjectError: used before `fit`.
        """
        self.require_fit()
        share = index.to(self.low.dtype) / (self.bins - 1)
        return self.low * (1 - share) + self.high * share  # so written, the ends come out exactly
