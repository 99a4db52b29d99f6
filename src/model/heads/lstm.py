"""The lab's MobileVLALSTMDecoder: an LSTM over the window, a tanh MLP, Huber regression of the chunk.

After `LSTMDecoder` of RoboVLMs (github.com/Robot-VLAs/RoboVLMs; 4 layers x 1024, MLP 1024-512-256), with masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.heads.base import Head, masked_mean


class LSTMHead(Head):
    """Predicts `(S, H * A)` from the LSTM's output at the newest frame."""

    def __init__(
        self,
        state_size: int,
        horizon: int,
        action_dim: int,
        layers: int = 4,
        hidden_size: int = 1024,
        mlp: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        huber_delta: float = 1.0,
    ) -> None:
        """
        Args:
            layers: of the LSTM.
            hidden_size: of the LSTM.
            mlp: widths of the tanh layers behind it.
            dropout: between LSTM layers, 0 to 1.
            huber_delta: error, in normalised action units, where the loss turns from square to linear.
        """
        super().__init__(state_size, horizon, action_dim)
        self.huber_delta = huber_delta
        self.lstm = nn.LSTM(
            state_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        widths = [hidden_size, *mlp]
        hidden = [
            part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.Tanh())
        ]
        self.mlp = nn.Sequential(*hidden, nn.Linear(widths[-1], horizon * action_dim))

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        samples, window = window_mask.shape
        flat = states.reshape(samples, window, self.state_size)
        # An LSTM started on padding would carry it along: move the valid frames to the front and read the last one.
        lengths = window_mask.sum(dim=1)
        index = torch.arange(window, device=states.device) + (window - lengths)[:, None]
        flat = flat.gather(1, index.clamp(max=window - 1)[..., None].expand(-1, -1, self.state_size))
        output, _ = self.lstm(flat)
        newest = output.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, output.shape[-1]))[:, 0]
        prediction: Tensor = self.mlp(newest)
        return prediction

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        errors = F.huber_loss(self.decode(prediction), actions, reduction="none", delta=self.huber_delta)
        huber = masked_mean(errors, action_mask)
        return {"loss": huber, "huber": huber.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        return prediction.view(-1, self.horizon, self.action_dim)
