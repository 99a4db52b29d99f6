"""No recurrence: an MLP over the whole window at once, Huber regression of the chunk.

In: states over the window. Out: `(S, H * A)`, the chunk. The plainest way to use a window, and the arm to beat for
every head that models time. It is what RoboVLMs (arXiv:2412.14058) calls an MLP head, with history side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.encoder import tanh_layers
from src.model.heads.regression import RegressionHead


class MLPHead(RegressionHead):
    """Predicts `(S, H * A)` from the W states side by side, and the mask that tells a black frame from none."""

    def __init__(
        self,
        state_size: int,
        window: int,
        horizon: int,
        codec: ActionCodec,
        mlp: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        huber_delta: float = 1.0,
    ) -> None:
        """
        Args:
            mlp: widths of the tanh layers, as behind the LSTM head, so that the two differ in how they read time.
            dropout: on the input, 0 up to 1.
            huber_delta: error, in normalised action units, where the loss turns from square to linear.

        Raises:
            ProjectError: an option out of its range.
        """
        super().__init__(state_size, window, horizon, codec, huber_delta)
        checks.widths(mlp=mlp)
        checks.fraction(dropout=dropout)
        sizes = [window * (state_size + 1), *mlp]
        self.mlp = nn.Sequential(
            nn.Dropout(dropout), *tanh_layers(sizes), nn.Linear(sizes[-1], horizon * self.action_dim)
        )

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, H * A)`."""
        flat = states.flatten(2).masked_fill(~window_mask[..., None], 0.0)
        prediction: Tensor = self.mlp(torch.cat([flat.flatten(1), window_mask.to(flat.dtype)], dim=1))
        return prediction
