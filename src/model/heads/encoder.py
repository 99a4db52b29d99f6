"""The lab's LSTM over the window with tanh layers behind it, for every head that differs in its output only.

In: `states (S, W, Q, D)` and `window_mask (S, W)`, padding on the left. Out: one summary `(S, size)` of the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from src.model.heads import checks


def make_lstm(state_size: int, hidden_size: int, layers: int, dropout: float) -> nn.LSTM:
    """An LSTM over `(S, W, state_size)`; `dropout` acts between its layers."""
    return nn.LSTM(state_size, hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)


def tanh_layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear and tanh for each step from one of `sizes` to the next; none for a single size."""
    pairs = zip(sizes, sizes[1:], strict=False)
    return [part for a, b in pairs for part in (nn.Linear(a, b), nn.Tanh())]


def newest_output(lstm: nn.LSTM, states: Tensor, window_mask: Tensor) -> Tensor:
    """The LSTM's output at the newest frame.

    Args:
        lstm: from `make_lstm`.
        states: `(S, W, Q, D)`.
        window_mask: `(S, W)` bool, True for frames; padding on the left, at least one frame.

    Returns:
        `(S, hidden_size)`.
    """
    samples, window = window_mask.shape
    flat = states.reshape(samples, window, lstm.input_size)
    # An LSTM started on padding would carry it along: move the valid frames to the front and read the last one.
    lengths = window_mask.sum(dim=1)
    index = torch.arange(window, device=states.device) + (window - lengths)[:, None]
    flat = flat.gather(1, index.clamp(max=window - 1)[..., None].expand(-1, -1, lstm.input_size))
    if flat.device.type == "cpu":
        # oneDNN has no half-precision LSTM for CPUs without bf16 units, and autocast would ask for one.
        with torch.autocast("cpu", enabled=False):
            output, _ = lstm(flat.to(lstm.all_weights[0][0].dtype))
    else:
        output, _ = lstm(flat)
    newest: Tensor = output.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, output.shape[-1]))[:, 0]
    return newest


class WindowEncoder(nn.Module):
    """The LSTM head without its last layer, so that heads on top of it are compared by their output alone.

    Attributes:
        size: width of the summary, the last of `mlp` or else `hidden_size`.
    """

    def __init__(
        self, state_size: int, layers: int, hidden_size: int, mlp: Sequence[int], dropout: float
    ) -> None:
        """
        Args:
            state_size: Q * D, one frame's states flattened.
            layers: of the LSTM.
            hidden_size: of the LSTM.
            mlp: widths of the tanh layers behind it.
            dropout: between LSTM layers, 0 up to 1.

        Raises:
            ProjectError: an option out of its range, under its key below `model.head`.
        """
        super().__init__()
        checks.lstm(layers, hidden_size, mlp, dropout)
        self.lstm = make_lstm(state_size, hidden_size, layers, dropout)
        self.mlp = nn.Sequential(*tanh_layers([hidden_size, *mlp]))
        self.size = mlp[-1] if mlp else hidden_size

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, size)`."""
        summary: Tensor = self.mlp(newest_output(self.lstm, states, window_mask))
        return summary
