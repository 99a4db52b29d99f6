"""A small convolutional network that listens, without any VLM: the lab's "ResNet + LSTM" with words.

    pixels ─► residual stem ─► cells ─► FiLM blocks ─► attention pooling ─► states
                                             ▲                ▲
    instruction ─► word pieces ─► GRU ───────┴────────────────┘

In: frames and instructions, behind the backbone door. Out: one state per action query. The stem knows no words, so a
frame's latents (its P cells, row by row) serve any instruction. All weights start at random. Normalisation is per
sample (GroupNorm, Wu & He 2018, arXiv:1803.08494), because BatchNorm would let batch mates change an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import ProjectError
from src.model.backbone.base import Backbone
from src.model.backbone.film import GROUP, ConvNet, FilmTrunk, Readout, Stem, WordEncoder
from src.model.backbone.loading import local_folder, reason

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""Of the colour channels of ImageNet; to random weights any values do that bring pictures near zero and one."""


class ConvNetBackbone(Backbone):
    """Residual CNN with FiLM conditioning (Perez et al. 2018, arXiv:1709.07871), read at Q learned queries."""

    pretrained = False

    def __init__(
        self,
        tokenizer: str,
        num_queries: int = 1,
        hidden_size: int = 128,
        image_size: int = 64,
        stem_stride: int = 4,
        widths: Sequence[int] = (32, 64),
        blocks: int = 1,
        film_blocks: int = 2,
        heads: int = 8,
        word_size: int = 64,
        max_words: int = 64,
    ) -> None:
        """
        Args:
            tokenizer: hub id or local folder of a tokenizer; only its vocabulary is used.
            num_queries: Q, places that pool the cells.
            hidden_size: D, of a state, of the GRU and of the pooling.
            image_size: side of the square input, pixels.
            stem_stride: pixels between the windows of the first convolution, which are twice as wide.
            widths: channels of each residual stage; each stage after the first halves the grid.
            blocks: residual blocks per stage.
            film_blocks: residual blocks behind the stem whose channels the instruction scales and shifts.
            heads: of the pooling; each looks at its own place.
            word_size: of a word piece's embedding.
            max_words: longest instruction, word pieces.

        Raises:
            ProjectError: no such tokenizer, or sizes that do not fit together.
        """
        super().__init__()
        shrink = stem_stride * 2 ** (len(widths) - 1)
        _check_sizes(num_queries, hidden_size, heads, image_size, shrink, widths, blocks)
        self.tokenizer = _open_tokenizer(tokenizer)
        self.unknown_token = self.tokenizer.unk_token_id
        self.num_queries, self.hidden_size, self.image_size = num_queries, hidden_size, image_size
        self.max_words, self.pad_token = max_words, self.tokenizer.pad_token_id or 0
        self.side = image_size // shrink
        self.latents_per_frame = self.side**2
        self.sites = {}
        self.parts = ("stem", "trunk", "readout")
        self.network = ConvNet(
            stem=Stem(stem_stride, widths, blocks),
            words=WordEncoder(self.tokenizer, word_size, hidden_size),
            trunk=FilmTrunk(widths[-1], hidden_size, film_blocks),
            readout=Readout(widths[-1], hidden_size, heads, self.side),
        )
        self.queries = nn.Parameter(torch.randn(num_queries, hidden_size))
        self._set_colours(IMAGE_MEAN, IMAGE_STD)

    # ---- words

    def use_frames(self, frames: int) -> None:
        if frames > 1:
            raise ProjectError(
                f"model.history: found {frames} frames in one sequence, expected 1, because convnet reads each frame "
                "alone; choose model/history=per_frame, or the backbone of a VLM."
            )

    def words(self, instruction: str) -> list[int]:
        ids: list[int] = self.tokenizer(instruction, add_special_tokens=False)["input_ids"]
        if len(ids) > self.max_words:
            raise ProjectError(
                f"instruction {instruction[:40]!r}…: found {len(ids)} tokens, model.backbone.max_words allows "
                f"{self.max_words}; shorten the instruction, or raise max_words."
            )
        return ids

    # ---- states

    def encode_images(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self._part("stem")(pixels)
        return latents

    def encode(self, latents: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        self.use_frames(latents.shape[1])
        words = self._part("words")(ids, mask)
        cells = self._part("trunk")(latents[:, 0], words)
        states: Tensor = self._part("readout")(cells, self.queries + words[:, None])
        return states.float()

    def _part(self, name: str) -> Any:
        return self.network.get_submodule(name)

    def image_flops(self) -> int:
        flops: int = self._part("stem").flops(self.image_size)
        return flops

    def text_flops(self, tokens: int, frames: int = 1) -> int:
        self.use_frames(frames)
        flops: int = (
            self._part("words").flops(tokens)
            + self._part("trunk").flops(self.latents_per_frame)
            + self._part("readout").flops(self.num_queries, self.latents_per_frame)
        )
        return flops


def _check_sizes(
    num_queries: int,
    hidden_size: int,
    heads: int,
    image_size: int,
    shrink: int,
    widths: Sequence[int],
    blocks: int,
) -> None:
    for key, value in (
        ("num_queries", num_queries),
        ("heads", heads),
        ("blocks", blocks),
        ("widths", len(widths)),
    ):
        if value < 1:
            raise ProjectError(f"model.backbone.{key}: found {value}, expected at least 1; set it to 1.")
    if hidden_size % heads:
        raise ProjectError(
            f"model.backbone.hidden_size: found {hidden_size}, expected a multiple of heads ({heads}); change one."
        )
    if image_size % shrink:
        raise ProjectError(
            f"model.backbone.image_size: found {image_size}, expected a multiple of {shrink} (stem_stride, doubled by "
            f"each further stage); choose {-(-image_size // shrink) * shrink}."
        )
    if any(width % GROUP for width in widths):
        raise ProjectError(
            f"model.backbone.widths: found {list(widths)}, expected multiples of {GROUP}, the channels that are "
            "normalised together; correct them."
        )


def _open_tokenizer(name: str) -> Any:
    """A hub id or folder; relative folders are looked up in the repository too, as checkpoints are."""
    from transformers import AutoTokenizer

    folder = local_folder(name)
    try:
        return AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        raise ProjectError(
            f"model.backbone.tokenizer: {name} is neither a local folder with a tokenizer nor reachable on the hub "
            f"({reason(error)}); download one, or use assets/kosmos2_tiny."
        ) from error
