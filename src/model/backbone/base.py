"""The door every backbone stands behind.

Owns the contract between frames, instructions and states; knows nothing of heads or losses.
In: `frames (N, 3, h, w)` uint8 RGB and instructions. Out: states `(S, Q, D)`, read at learned action queries.
The pass is split at the image latents: each distinct frame is seen once, whatever looks at it afterwards, and a
frozen vision tower need not be computed again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import ProjectError


class Backbone(nn.Module, ABC):
    """Frames and an instruction -> states, as the policy sees any model that can read both.

    Attributes:
        network: the model whose weights a placement (`model.lora`) decides about.
        queries: `(Q, D)` float32, learned action queries; the only parameter outside `network`.
        hidden_size: D, width of a state.
        num_queries: Q.
        latents_per_frame: P, image latents per frame.
        image_size: side of the square model input, pixels.
        sites: LoRA site name -> regular expression over full module paths below `network`; group 1, where the
            pattern has one, is the layer index ("last k layers" counts from the highest).
        unread_layers: site -> number of its last layers whose output the model does not use.
        parts: module paths below `network` that are called as a whole; what `torch.compile` works on.
        pretrained: false where weights start at random, so that freezing them makes no sense.
        quantized: true where the weights of `network` are stored in 4 or 8 bits and cannot train themselves.
        checkpoint: hub id or folder the weights came from, as written in the config; None where there is none.
        revision: commit of a hub checkpoint; None for a folder.
        prompt: template the instruction is put into; None where there is none.
        pad_token, unknown_token: ids of the tokenizer; no unknown one where it can spell anything.
        adapter_prefix: where `network` sits inside the family's full model, e.g. `model.`; for exported adapters.
        text_path: module path of the text model below `network`, which has no part in `encode_images`; empty where
            there is no such module, so that every weight of `network` may have one.
    """

    network: nn.Module
    queries: nn.Parameter
    hidden_size: int
    num_queries: int
    latents_per_frame: int
    image_size: int
    sites: dict[str, str]
    unread_layers: Mapping[str, int] = MappingProxyType({})
    parts: tuple[str, ...]
    pretrained: bool = True
    quantized: bool = False
    checkpoint: str | None = None
    revision: str | None = None
    prompt: str | None = None
    pad_token: int
    unknown_token: int | None = None
    adapter_prefix: str = ""
    text_path: str = ""
    mean: Tensor
    std: Tensor

    @abstractmethod
    def use_frames(self, frames: int) -> None:
        """Announces that sequences will hold up to `frames` frames; `words` then keeps room for them.

        Raises:
            ProjectError: this backbone cannot read so many frames at once.
        """

    @abstractmethod
    def words(self, instruction: str) -> list[int]:
        """Token ids of one instruction with its prompt; `instruction` is stripped and not empty.

        Raises:
            ProjectError: it does not fit the text window.
        """

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """`(N, 3, S, S)` float -> latents `(N, P, C)`."""

    @abstractmethod
    def encode(self, latents: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """States `(S, Q, D)` float32 at the action queries.

        Args:
            latents: `(S, F, P, C)`, the frames of each sequence, oldest first.
            frame_mask: `(S, F)` bool; padded frames stand on the left and take no part.
            ids: `(S, L)` int64, right-padded, from `tokenize`.
            mask: `(S, L)` bool.
        """

    @property
    def text_layers(self) -> Sequence[nn.Module]:
        """The text model's layers, lowest first; none where it cannot be cut between them."""
        return ()

    def encode_below(self, layer: int, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The lower half of `encode` for one frame per sequence, cut below text layer `layer`, nothing dropped.

        Args:
            layer: 0 to the number of `text_layers`.
            latents: `(N, 1, P, C)`.
            ids, mask: `(N, L)`.

        Returns:
            What that layer gets, `(N, T, D)`; surplus positions stand on the right.
        """
        raise NotImplementedError(f"{type(self).__name__} has no text layers to be cut between")

    def encode_above(self, layer: int, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The upper half: `hidden (N, T or more, D)` from `encode_below`, the same words -> states `(N, Q, D)`."""
        raise NotImplementedError(f"{type(self).__name__} has no text layers to be cut between")

    @abstractmethod
    def image_flops(self) -> int:
        """Floating-point operations of `encode_images` for one frame; multiply and add count separately."""

    @abstractmethod
    def text_flops(self, tokens: int, frames: int = 1) -> int:
        """Of `encode` for one sequence of `frames` frames and `tokens` prompt tokens."""

    def flops(self, tokens: int) -> int:
        """Of one frame's whole forward pass with `tokens` prompt tokens."""
        return self.image_flops() + self.text_flops(tokens)

    def describe(self, tokens: int) -> str:
        """One line for people: what a frame becomes, what it costs at `tokens` prompt tokens, the LoRA sites."""
        sites = ", ".join(self.sites) or "none"
        return (
            f"{type(self).__name__}: {self.latents_per_frame} latents per frame, states {self.num_queries} x "
            f"{self.hidden_size}, {self.flops(tokens) / 1e9:,.3g} GFLOP per frame; LoRA sites {sites}"
        )

    def require_image_size(self, image_size: int) -> None:
        """Refuses stored frames of another size: smaller ones lack what the model could see, larger ones are resized
        anew in every step.

        Raises:
            ProjectError: `image_size` pixels is not the side of the model's input.
        """
        if image_size != self.image_size:
            raise ProjectError(
                f"data.image_size: found {image_size} px, but {type(self).__name__} takes {self.image_size} px; set "
                f"data.image_size={self.image_size} (or model.backbone.image_size={image_size}, if it has that key)."
            )

    def tokenize(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        """Prompted instructions as `ids (E, L)` int64 and `mask (E, L)` bool, right-padded.

        Raises:
            ProjectError: an instruction is empty, does not fit the text window, or cannot be read.
        """
        rows = [self._checked_words(text.strip()) for text in instructions]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.pad_token, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return ids, mask

    def _checked_words(self, instruction: str) -> list[int]:
        if not instruction:
            raise ProjectError(
                "instruction: found an empty text, expected words; a policy without an instruction is a `deaf` arm "
                "and is asked for by name, not by an empty string."
            )
        ids = self.words(instruction)
        if self.unknown_token is not None and self.unknown_token in ids:
            raise self._unreadable(instruction)
        return ids

    def _unreadable(self, instruction: str) -> ProjectError:
        """Names the words of an instruction, and the characters in them, that become the unknown token."""

        def unknown(text: str) -> bool:
            return self.unknown_token in self.words(text)

        if unknown(""):
            return ProjectError(
                "model.backbone.prompt: in it are words that the model's tokenizer does not know (seen with "
                f"instruction {instruction!r}), expected known ones, because all unknown words read alike; write it "
                "in other words."
            )
        words = dict.fromkeys(word for word in instruction.split() if unknown(word)) or {instruction: None}
        # A tokenizer with single letters spells a word that it does not know; then only odd characters are at fault.
        characters = dict.fromkeys(one for word in words for one in word if unknown(one))
        spelled = f" (characters {', '.join(map(repr, characters))})" if characters else ""
        return ProjectError(
            f"instruction {instruction!r}: the model's tokenizer does not know {', '.join(map(repr, words))}{spelled}, "
            "expected words that it knows, because all unknown ones read alike; choose another data/instruction "
            "(lab_small has the words of the small model, which knows no capitals), or a model with a full vocabulary."
        )

    def normalize(self, images: Tensor) -> Tensor:
        """`(N, 3, S, S)` float in [0, 1] -> what the vision tower expects, same shape."""
        return (images - self.mean) / self.std

    def _set_colours(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Mean and deviation of the three colour channels, in [0, 1], for `normalize`."""
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def preprocess(self, frames: Tensor) -> Tensor:
        """`frames (N, 3, h, w)` uint8 -> pixels `(N, 3, S, S)` float, resized where needed, normalised.

        Raises:
            ProjectError: the frames are not uint8 RGB.
        """
        if frames.dtype != torch.uint8 or frames.dim() != 4 or frames.shape[1] != 3:
            raise ProjectError(
                f"frames: found {tuple(frames.shape)} {frames.dtype}, expected (N, 3, h, w) uint8 RGB; "
                "pass the images as the data room stores them."
            )
        if frames.shape[-2:] != (self.image_size, self.image_size):
            size = (self.image_size, self.image_size)
            frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True)
        return self.normalize(frames.float() / 255.0)

    def forward(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Each frame on its own: `frames (N, 3, h, w)` uint8, `ids (N, L)`, `mask (N, L)` -> states `(N, Q, D)`."""
        return self.encode_alone(self.encode_images(self.preprocess(frames)), ids, mask)

    def encode_alone(self, latents: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """`encode` for one frame per sequence: latents `(N, P, C)`, `ids (N, L)`, `mask (N, L)` -> `(N, Q, D)`."""
        alone = torch.ones(len(latents), 1, dtype=torch.bool, device=latents.device)
        return self.encode(latents[:, None], alone, ids, mask)
