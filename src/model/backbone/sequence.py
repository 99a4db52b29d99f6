"""Owns how frames, words and action queries become one sequence of a decoder-style VLM.

    prefix | open latents close | open latents close | words … | Q queries | padding
             oldest frame         newest frame

In: the prompt template of the config, a tokenizer, the number of frames. Out: a `Packed` sequence of token ids with
places for latents and queries. Padding stands last, whatever was missing (words of a shorter instruction, frames
before the start of an episode), so positions count real tokens only and nothing depends on batch mates.

Sequences of equal length are computed together, without padding and without a mask; see `lengths.py` for the few
that are padded because one more call would cost more.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from src.core.errors import ProjectError
from src.model.backbone.base import Backbone
from src.model.backbone.lengths import CALL_TOKENS, divide

MIN_WORDS = 8
"""Tokens of text window that must remain for the words, whatever the frames take."""


@dataclass(frozen=True)
class Packed:
    """S sequences of T tokens.

    Attributes:
        ids: `(S, T)` int64; the placeholder's id where latents or queries go.
        attention: `(S, T)` bool, true on real tokens; padding stands on the right.
        is_latent: `(S, T)` bool, places of the latents: frame by frame, in order.
        is_query: `(S, T)` bool, places of the action queries.
        query_at: `(S, Q)` int64, the same places as indices.
        full: known to have no padding.
    """

    ids: Tensor
    attention: Tensor
    is_latent: Tensor
    is_query: Tensor
    query_at: Tensor
    full: bool = False

    @property
    def mask(self) -> Tensor | None:
        """The library's `attention_mask` `(S, T)` int64; None without padding. Text models of the Llama kind then make
        no mask and run the fused causal kernel, which computes half as much; Kosmos-2's forward makes a causal mask
        `(S, 1, T, T)` for itself in either case, so there None saves the padding's part of it only."""
        return None if self.full else self.attention.long()

    def cut(self, length: int, full: bool) -> Packed:
        """The first `length` tokens; behind them is padding only."""
        return replace(
            self,
            ids=self.ids[:, :length],
            attention=self.attention[:, :length],
            is_latent=self.is_latent[:, :length],
            is_query=self.is_query[:, :length],
            full=full,
        )


class SequenceBackbone(Backbone):
    """A VLM that reads text and image latents in one sequence."""

    _prefix_ids: Tensor
    _frame_ids: Tensor

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        prompt: str,
        num_queries: int,
        query_init: str | None,
        frame_open: list[int],
        frame_close: list[int],
        image_token: int,
        hidden_size: int,
        latents_per_frame: int,
        image_size: int,
        max_tokens: int,
        image_mean: list[float],
        image_std: list[float],
    ) -> None:
        """
        Args:
            network: the loaded model, without its language-model head.
            tokenizer: of the checkpoint.
            prompt: template of the whole sequence; `{image}` once, then `{instruction}`.
            num_queries: Q, action queries behind the words.
            query_init: token whose embedding the queries start from; None draws them at the size of a word.
            frame_open, frame_close: token ids around a frame's latents.
            image_token: id that stands where latents go.
            hidden_size: D.
            latents_per_frame: P.
            image_size: side of the square model input, pixels.
            max_tokens: length of the text window, tokens.
            image_mean, image_std: of the three colour channels, in [0, 1].

        Raises:
            ProjectError: the prompt lacks a place, there is no query, or `query_init` is no token.
        """
        super().__init__()
        self.network = network
        self.tokenizer = tokenizer
        self.prompt, self.num_queries = prompt, num_queries
        self.hidden_size, self.latents_per_frame = hidden_size, latents_per_frame
        self.image_size, self.max_tokens = image_size, max_tokens
        before, self._after = _split_prompt(prompt)
        if num_queries < 1:
            raise ProjectError(
                f"model.backbone.num_queries: found {num_queries}, expected at least 1; set it to 1."
            )
        self.prefix: list[int] = tokenizer(before, add_special_tokens=False)["input_ids"]
        self.frame_tokens = [*frame_open, *[image_token] * latents_per_frame, *frame_close]
        self.image_token = image_token
        # On the device from the start: a copy in every pass would make a GPU wait, and no CUDA graph allows one.
        self.register_buffer("_prefix_ids", torch.tensor(self.prefix, dtype=torch.int64), persistent=False)
        self.register_buffer("_frame_ids", torch.tensor(self.frame_tokens), persistent=False)
        self._latent_places = slice(len(frame_open), len(frame_open) + latents_per_frame)
        self.pad_token: int = (
            tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        )
        self.unknown_token = tokenizer.unk_token_id
        control = {*tokenizer.all_special_ids, *frame_open, *frame_close, image_token}
        self._reserved = control - {tokenizer.unk_token_id}
        self._set_colours(image_mean, image_std)
        self.queries = nn.Parameter(self._initial_queries(query_init))
        self.use_frames(1)

    @property
    def embeddings(self) -> nn.Embedding:
        """The table of word embeddings."""
        network: Any = self.network
        table: nn.Embedding = network.get_input_embeddings()
        return table

    def _initial_queries(self, token: str | None) -> Tensor:
        weight = self.embeddings.weight.detach().float()
        # Word embeddings have this size; a model that scales them must scale queries alike.
        queries = torch.randn(self.num_queries, self.hidden_size) * weight.std()
        if token is None:
            return queries
        index = self.tokenizer.convert_tokens_to_ids(token)
        if index is None or index == self.tokenizer.unk_token_id:
            raise ProjectError(
                f"model.backbone.query_init: {token!r} is no token of this checkpoint; choose one, such as <object> "
                "for Kosmos-2, or null."
            )
        # Several queries must not start equal, or they would stay equal.
        return weight[index] + (0.1 if self.num_queries > 1 else 0.0) * queries

    # ---- words

    def use_frames(self, frames: int) -> None:
        self.frames = frames
        taken = len(self.prefix) + frames * len(self.frame_tokens) + self.num_queries
        self.max_words = self.max_tokens - taken
        if self.max_words < MIN_WORDS and frames == 1:
            raise ProjectError(
                f"model.backbone.num_queries: {self.num_queries} queries, one frame and the prompt before it take "
                f"{taken} tokens of a text window of {self.max_tokens}, expected at least {MIN_WORDS} left for words; "
                "use fewer queries or a shorter model.backbone.prompt."
            )
        if self.max_words < MIN_WORDS:
            raise ProjectError(
                f"data.window: found {frames} frames in one sequence, which take {taken} tokens of a text window of "
                f"{self.max_tokens}; use at most {self._most_frames()} frames, or model/history=per_frame."
            )

    def _most_frames(self) -> int:
        room = self.max_tokens - len(self.prefix) - self.num_queries - MIN_WORDS
        return max(0, room // len(self.frame_tokens))

    def words(self, instruction: str) -> list[int]:
        own = self._tokens(instruction)
        reserved = [token for token in own if token in self._reserved]
        if reserved:
            raise ProjectError(
                f"instruction {instruction[:40]!r}: found the control token "
                f"{self.tokenizer.convert_ids_to_tokens(reserved[0])!r} in it, expected words; delete it."
            )
        ids = self._tokens(self._after.replace("{instruction}", instruction))
        if len(ids) > self.max_words:
            raise ProjectError(
                f"instruction {instruction[:40]!r}…: found {len(ids)} tokens with its prompt, the text window holds "
                f"{self.max_words} beside {self.frames} frame(s) and the action queries; shorten the instruction or "
                "model.backbone.prompt."
            )
        return ids

    def _tokens(self, text: str) -> list[int]:
        """Token ids of the text behind the frames."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    # ---- sequences

    @abstractmethod
    def run(self, packed: Packed, seen: Tensor) -> Tensor:
        """One call of the text model: the last hidden state `(S, T, D)`.

        Args:
            packed: S sequences; the library gets `packed.mask`.
            seen: `(M, P, C)`, the latents of all frames in them, in the order of `packed.is_latent`.
        """

    def encode(self, latents: Tensor, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        known = self._counts(frame_mask, mask)
        if known is None:
            seen = latents.flatten(0, 1) if frame_mask.shape[1] == 1 else latents[frame_mask]
            packed = self.pack(frame_mask, ids, mask)
            return self.read(self.run(packed, seen), packed)
        frames, words = known
        block, rest = len(self.frame_tokens), len(self.prefix) + self.num_queries
        lengths = [rest + f * block + w for f, w in zip(frames, words, strict=True)]
        calls = divide(lengths, self._call_tokens(latents.device))
        states = []
        for rows in calls:
            most_frames, most_words = max(frames[row] for row in rows), max(words[row] for row in rows)
            part = slice(None) if len(calls) == 1 else _on(rows, latents.device)
            there = frame_mask[part, frame_mask.shape[1] - most_frames :]
            window = latents[part, latents.shape[1] - most_frames :]
            packed = self.pack(there, ids[part, :most_words], mask[part, :most_words])
            longest = max(lengths[row] for row in rows)
            packed = packed.cut(longest, full=all(lengths[row] == longest for row in rows))
            # Choosing by a mask waits for the device; where no frame is missing there is nothing to choose.
            whole = all(frames[row] == most_frames for row in rows)
            seen = window.flatten(0, 1) if whole else window[there]
            states.append(self.read(self.run(packed, seen), packed))
        if len(calls) == 1:
            return states[0]
        order = sorted(range(len(lengths)), key=[row for rows in calls for row in rows].__getitem__)
        return torch.cat(states)[_on(order, latents.device)]

    @staticmethod
    def _counts(frame_mask: Tensor, mask: Tensor) -> tuple[list[int], list[int]] | None:
        """Frames and words of each sequence; one wait for the device. None where it cannot be asked: while a CUDA
        graph is recorded or `torch.compile` traces, when shapes must not depend on values."""
        recording = frame_mask.is_cuda and torch.cuda.is_current_stream_capturing()
        if recording or torch.compiler.is_compiling():
            return None
        frames, words = torch.stack([frame_mask.sum(dim=1), mask.sum(dim=1)]).tolist()
        return frames, words

    def _call_tokens(self, device: torch.device) -> int:
        """What one more call costs. Where the weights are divided among processes, these meet in every call, so all
        must make equally many: one."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            from torch.distributed.fsdp import FSDPModule

            if any(isinstance(module, FSDPModule) for module in self.network.modules()):
                return 1 << 40
        return CALL_TOKENS.get(device.type, CALL_TOKENS["cuda"])

    def pack(self, frame_mask: Tensor, ids: Tensor, mask: Tensor) -> Packed:
        """Lays out S sequences; see the head of this file.

        Args:
            frame_mask: `(S, F)` bool, padded frames on the left.
            ids: `(S, L)` int64.
            mask: `(S, L)` bool.
        """
        samples, frames = frame_mask.shape
        queries, block = self.num_queries, len(self.frame_tokens)
        fixed = torch.cat([self._prefix_ids, self._frame_ids.repeat(frames)])
        places = torch.full((samples, queries), self.pad_token, device=ids.device)
        tokens = torch.cat([fixed.expand(samples, -1), ids, places], dim=1)
        valid = torch.cat(
            [
                mask.new_ones(samples, len(self.prefix)),
                frame_mask.repeat_interleave(block, dim=1),
                mask,
                mask.new_ones(samples, queries),
            ],
            dim=1,
        )
        latent = torch.zeros(tokens.shape[1], dtype=torch.bool, device=ids.device)
        latent[len(self.prefix) : len(fixed)].view(frames, block)[:, self._latent_places] = True
        # A stable sort moves what is missing to the end and keeps the order of the rest.
        order = torch.argsort((~valid).int(), dim=1, stable=True)
        valid = valid.gather(1, order)
        query_at = valid.sum(dim=1)[:, None] - queries + torch.arange(queries, device=ids.device)
        return Packed(
            ids=torch.where(valid, tokens.gather(1, order), self.pad_token),
            attention=valid,
            is_latent=latent[order] & valid,
            is_query=torch.zeros_like(valid).scatter(1, query_at, True),
            query_at=query_at,
        )

    def merge(self, packed: Packed, latents: Tensor, frame_mask: Tensor | None = None) -> Tensor:
        """Embeddings `(S, T, D)` with latents and queries in their places, out of place.

        Args:
            packed: S sequences.
            latents: `(M, P, D)`, of all frames in them; or `(S, F, P, D)`.
            frame_mask: `(S, F)` bool, which of the latter are there; None: all.
        """
        embeds = self.embeddings(packed.ids)
        # Choosing by a mask waits for the device, so it is not done where nothing can be missing.
        seen = latents if frame_mask is None or frame_mask.shape[1] == 1 else latents[frame_mask]
        embeds = embeds.masked_scatter(packed.is_latent[..., None], seen.to(embeds.dtype))
        queries = self.queries.to(embeds.dtype).expand(len(embeds), -1, -1)
        return embeds.masked_scatter(packed.is_query[..., None], queries)

    @staticmethod
    def read(hidden: Tensor, packed: Packed) -> Tensor:
        """The last hidden state `(S, T, D)` at the queries: `(S, Q, D)` float32."""
        index = packed.query_at[..., None].expand(-1, -1, hidden.shape[-1])
        return hidden.gather(1, index).float()

    def sequence_length(self, tokens: int, frames: int) -> int:
        """T of a sequence with `tokens` words and `frames` frames."""
        return len(self.prefix) + frames * len(self.frame_tokens) + tokens + self.num_queries


def _split_prompt(prompt: str) -> tuple[str, str]:
    """What stands before and behind the frames."""
    for place in ("{image}", "{instruction}"):
        if prompt.count(place) != 1:
            raise ProjectError(
                f"model.backbone.prompt: found {place!r} {prompt.count(place)} times in {prompt!r}, expected it once, "
                "or the model would not see it; write it where it belongs."
            )
    before, after = prompt.split("{image}")
    if "{instruction}" not in after:
        raise ProjectError(
            f"model.backbone.prompt: in {prompt!r} the instruction stands before the image, expected it behind; "
            "exchange the two."
        )
    return before, after


def _on(rows: list[int], device: torch.device) -> Tensor:
    """Row numbers as an index on `device`, sent without waiting for it."""
    index = torch.tensor(rows)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index.to(device)
