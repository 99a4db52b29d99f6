"""The parts of the convolutional network: residual stem, word encoder, FiLM trunk, readout at queries.

In: normalised pixels and word pieces. Out: cells, a vector of words, states. Every part counts its own floating-point
operations (multiply and add separately), so that figures come from the layer sizes. Nothing here looks at batch mates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import ProjectError

GROUP = 8
"""Channels that share a GroupNorm statistic; widths are multiples of it."""

LAYOUT = 16
"""Channels of a cell in the layout: enough for a few kinds of things, few enough for one matrix over all cells."""


class ConvNet(nn.Module):
    """The parts, under one roof: what a placement decides about."""

    def __init__(self, stem: Stem, words: WordEncoder, trunk: FilmTrunk, readout: Readout) -> None:
        super().__init__()
        self.stem, self.words, self.trunk, self.readout = stem, words, trunk, readout


class Stem(nn.Module):
    """`(N, 3, S, S)` -> cells `(N, P, C)`, row by row; knows no words."""

    def __init__(self, stride: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.stride = stride
        # Windows overlap by half, so that no object is cut by all of them.
        self.patch = nn.Conv2d(3, widths[0], 2 * stride, stride, (stride + 1) // 2, bias=False)
        self.norm = _norm(widths[0])
        before = [widths[0], *widths[:-1]]
        self.blocks = nn.ModuleList(
            ResidualBlock(before[i] if k == 0 else width, width, 2 if i and k == 0 else 1)
            for i, width in enumerate(widths)
            for k in range(blocks)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        # Channels last is what oneDNN and cuDNN are fastest with, and it makes the cells a view.
        x = F.relu(self.norm(self.patch(pixels.contiguous(memory_format=torch.channels_last))))
        for block in self.blocks:
            x = block(x)
        return x.flatten(2).transpose(1, 2)

    def flops(self, image_size: int) -> int:
        side = image_size // self.stride
        total = _conv_flops(self.patch, side**2)
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            side //= block.stride
            total += block.flops(side**2)
        return total


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a short cut (He et al. 2016, arXiv:1512.03385); `stride` 2 halves the grid."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = _norm(outputs), _norm(outputs)
        # Averaging before the 1x1 convolution lets it see every cell (ResNet-D, He et al. 2019, arXiv:1812.01187).
        self.short = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs or stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.short is not None:
            x = self.short(F.avg_pool2d(x, self.stride) if self.stride > 1 else x)
        return F.relu(x + y)

    def flops(self, cells: int) -> int:
        convolutions = [self.conv1, self.conv2, *([self.short] if self.short is not None else [])]
        return sum(_conv_flops(conv, cells) for conv in convolutions)


class Vocabulary(nn.Embedding):
    """Embeddings of word pieces that know whose pieces they number.

    A checkpoint carries the hash of the vocabulary; under another one the same numbers would be other words.
    """

    pieces: Tensor

    def __init__(self, tokenizer: Any, size: int) -> None:
        super().__init__(len(tokenizer), size)
        numbered = sorted(tokenizer.get_vocab().items())
        digest = hashlib.sha256("\n".join(f"{piece}\t{index}" for piece, index in numbered).encode()).digest()
        self.register_buffer("pieces", torch.tensor(list(digest), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        found = state_dict.get(f"{prefix}pieces")
        if found is not None and not torch.equal(found.cpu(), self.pieces.cpu()):
            raise ProjectError(
                "model.backbone.tokenizer: found another vocabulary than the one these weights were trained with, "
                "expected the same, or numbers would stand for other words; put that tokenizer back."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class WordEncoder(nn.Module):
    """Word pieces `(S, L)`, right-padded -> `(S, D)`: a GRU (Cho et al. 2014, arXiv:1406.1078), largest outputs."""

    def __init__(self, tokenizer: Any, word_size: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = Vocabulary(tokenizer, word_size)
        self.gru = nn.GRU(word_size, hidden_size, batch_first=True)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        # Read forwards, what stands behind the last word cannot reach it: no packing, which would wait for the GPU.
        outputs, _ = self.gru(self.embedding(ids))
        # The largest over time (Conneau et al. 2017, arXiv:1705.02364): an untrained GRU forgets half with each word,
        # so that its last output hardly knows the side named at the start.
        words: Tensor = outputs.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values
        return words

    def flops(self, tokens: int) -> int:
        width = self.gru.hidden_size
        return tokens * 2 * 3 * width * (self.gru.input_size + width)


class FilmTrunk(nn.Module):
    """Cells `(S, P, C)` and words `(S, D)` -> cells `(S, P, C)`."""

    def __init__(self, width: int, words: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FilmBlock(width, words) for _ in range(blocks))

    def forward(self, cells: Tensor, words: Tensor) -> Tensor:
        side = int(cells.shape[1] ** 0.5)
        x = cells.transpose(1, 2).unflatten(2, (side, side))
        for block in self.blocks:
            x = block(x, words)
        return x.flatten(2).transpose(1, 2)

    def flops(self, cells: int) -> int:
        return sum(block.flops(cells) for block in self.blocks if isinstance(block, FilmBlock))


class FilmBlock(nn.Module):
    """The residual block of FiLM: 1x1, then 3x3, normalised, scaled and shifted by the words, beside a short cut."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm = nn.GroupNorm(width // GROUP, width, affine=False)  # scale and shift come from the words
        self.film = nn.Linear(words, 2 * width)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        scale, shift = self.film(words)[:, :, None, None].chunk(2, dim=1)
        return x + F.relu((1 + scale) * self.norm(self.conv2(x)) + shift)

    def flops(self, cells: int) -> int:
        film = 2 * self.film.in_features * self.film.out_features
        return _conv_flops(self.conv1, cells) + _conv_flops(self.conv2, cells) + film


class Readout(nn.Module):
    """Cells `(S, P, C)` and questions `(S, Q, D)` -> states `(S, Q, D)` by attention over the cells.

    Keys and values hold where a cell is, so a head that looks at one thing also says where that is, as a spatial
    softmax does (Levine et al. 2016, arXiv:1504.00702). Beside it stands the layout: all cells, each as a few
    channels. Heads that start out looking everywhere learn slowly where to look; the layout tells from the start.
    """

    def __init__(self, width: int, hidden_size: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(_positions(side, width))
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(width, hidden_size, bias=False)  # a bias would move all cells alike: nothing
        self.value = nn.Linear(width, hidden_size)
        self.squeeze = nn.Linear(width, LAYOUT)
        self.layout = nn.Linear(side**2 * LAYOUT, hidden_size)
        self.mlp = nn.Sequential(
            nn.LayerNorm(3 * hidden_size),
            nn.Linear(3 * hidden_size, 2 * hidden_size),
            nn.ReLU(),
            nn.Linear(2 * hidden_size, hidden_size),
        )

    def forward(self, cells: Tensor, questions: Tensor) -> Tensor:
        cells = self.norm(cells) + self.position
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(questions), self.key(cells), self.value(cells))
        )
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        layout = self.layout(F.relu(self.squeeze(cells)).flatten(1))[:, None].expand_as(seen)
        states: Tensor = self.mlp(torch.cat([seen, layout, questions], dim=-1))
        return states

    def flops(self, queries: int, cells: int) -> int:
        width, d = self.key.in_features, self.key.out_features
        attention = 4 * cells * width * d + queries * (2 * d * d + 4 * cells * d)
        layout = 2 * cells * LAYOUT * (width + d)
        return attention + layout + queries * 16 * d * d


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(width // GROUP, width)


def _conv_flops(conv: nn.Conv2d, cells: int) -> int:
    """Multiply and add counted separately, for `cells` output cells."""
    return 2 * cells * conv.weight.numel()


def _positions(side: int, width: int) -> Tensor:
    """`(side², width)`: sine and cosine of row and column at growing frequencies, where positions start."""
    place = torch.linspace(0, torch.pi, side)
    waves = place[:, None] * 2 ** torch.linspace(0, 3, width // 4)
    axis = torch.cat([waves.sin(), waves.cos()], dim=1)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1).contiguous()
