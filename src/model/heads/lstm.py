"""The lab's MobileVLALSTMDecoder: an LSTM over the window, a tanh MLP, Huber regression of the chunk.

In: states over the window. Out: `(S, H * A)`, the chunk. After `LSTMDecoder` of RoboVLMs
(github.com/Robot-VLAs/RoboVLMs; 4 layers x 1024, MLP 1024-512-256), with masks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.encoder import make_lstm, newest_output, tanh_layers
from src.model.heads.regression import RegressionHead


class LSTMHead(RegressionHead):
    """Predicts `(S, H * A)` from the LSTM's output at the newest frame."""

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
        huber_delta: float = 1.0,
    ) -> None:
        """
        Args:
            layers: of the LSTM.
            hidden_size: of the LSTM.
            mlp: widths of the tanh layers behind it.
            dropout: between LSTM layers, 0 up to 1.
            huber_delta: error, in normalised action units, where the loss turns from square to linear.

        Raises:
            ProjectError: an option out of its range.
        """
        super().__init__(state_size, window, horizon, codec, huber_delta)
        checks.lstm(layers, hidden_size, mlp, dropout)
        self.lstm = make_lstm(state_size, hidden_size, layers, dropout)
        sizes = [hidden_size, *mlp]
        self.mlp = nn.Sequential(*tanh_layers(sizes), nn.Linear(sizes[-1], horizon * self.action_dim))

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, H * A)`."""
        prediction: Tensor = self.mlp(newest_output(self.lstm, states, window_mask))
        return prediction
