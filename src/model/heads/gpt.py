"""A causal transformer over the window, Huber regression of the chunk from the newest position.

In: states over the window. Out: `(S, H * A)`, the chunk. Pre-norm blocks as in GPT-2 (Radford et al. 2019; layer norm
before each part, GELU, MLP four times as wide); RoboVLMs (arXiv:2412.14058) compares such a decoder with the LSTM.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.regression import RegressionHead

_POSITION_STD = 0.02
"""Standard deviation of fresh position embeddings, GPT-2's."""


class Block(nn.Module):
    """Attention and MLP, each behind a layer norm and added to what came in."""

    def __init__(self, size: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), nn.GELU(), nn.Linear(4 * size, size), nn.Dropout(dropout)
        )

    def forward(self, tokens: Tensor, allowed: Tensor) -> Tensor:
        """`tokens (S, W, size)`, `allowed (S, 1, W, W)` bool, True where a row may look -> `(S, W, size)`."""
        samples, window, size = tokens.shape
        split = self.qkv(self.attention_norm(tokens)).view(samples, window, 3, self.attention_heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(samples, window, size))
        result: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return result


class GPTHead(RegressionHead):
    """Predicts `(S, H * A)` at the newest frame, which sees every valid frame of the window.

    Positions count from the newest frame backwards: a frame three steps old has the same embedding in a full window
    and in one that has just begun, and more padding on the left changes nothing.
    """

    def __init__(
        self,
        state_size: int,
        window: int,
        horizon: int,
        codec: ActionCodec,
        layers: int = 4,
        hidden_size: int = 1024,
        attention_heads: int = 16,
        dropout: float = 0.0,
        huber_delta: float = 1.0,
    ) -> None:
        """
        Args:
            layers: transformer blocks.
            hidden_size: width of the transformer.
            attention_heads: per block; divides hidden_size.
            dropout: on attention weights and behind each block's MLP, 0 up to 1.
            huber_delta: error, in normalised action units, where the loss turns from square to linear.

        Raises:
            ProjectError: an option out of its range.
        """
        super().__init__(state_size, window, horizon, codec, huber_delta)
        checks.at_least(1, layers=layers, hidden_size=hidden_size, attention_heads=attention_heads)
        checks.fraction(dropout=dropout)
        if hidden_size % attention_heads:
            raise checks.refuse(
                "attention_heads", attention_heads, f"a divisor of model.head.hidden_size, {hidden_size}"
            )
        self.input = nn.Linear(state_size, hidden_size)
        self.age = nn.Parameter(torch.randn(window, hidden_size) * _POSITION_STD)  # row 0: the newest frame
        self.blocks = nn.ModuleList(Block(hidden_size, attention_heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.output = nn.Linear(hidden_size, horizon * self.action_dim)

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, H * A)`."""
        window = window_mask.shape[1]
        # Zeros first: a weight of zero on a value of NaN would still be NaN.
        tokens = self.input(states.flatten(2).masked_fill(~window_mask[..., None], 0.0))
        tokens = tokens + self.age[:window].flip(0)
        itself = torch.eye(window, dtype=torch.bool, device=tokens.device)
        earlier = torch.ones_like(itself).tril()
        # Padded rows look at themselves alone: a row that may look nowhere would be NaN. Nobody looks at them.
        allowed = (earlier & window_mask[:, None, None, :]) | itself
        for block in self.blocks:
            tokens = block(tokens, allowed)
        prediction: Tensor = self.output(self.norm(tokens[:, -1]))
        return prediction
