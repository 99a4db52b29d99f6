"""Owns how one control step runs on the device: as plain calls, compiled, or as a recorded CUDA graph.

    frames (uint8) ─► look: encode_frames, push into the ring ─► plan: act on the ring ─► chunks (H, A)

In: resized frames of B robots and their instructions. Out: chunks in SI units. The engine holds the ring of the last
W memories per robot, so each step encodes one new frame however long the window is; only the head sees the window.

At batch 1 a large model starts about a thousand small kernels per step, and starting them takes longer than running
them. Both remedies need shapes that never change: the ring is updated in place, what is missing of a window is a mask,
and instructions are padded to a multiple of `PAD_TOKENS` (padding never changes a result, see Backbone.tokenize).

    none         plain calls; only robots that still drive are computed
    compile      torch.compile of encode_frames and act; on CUDA with mode="reduce-overhead", which records graphs too
    cuda_graph   both recorded once per length of instruction and replayed: the same kernels, two calls per step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from src.core.errors import ProjectError
from src.model.policy import Policy

ACCELERATIONS = ("none", "compile", "cuda_graph")
PAD_TOKENS = 16
"""Instructions of one to 16 tokens are one shape, 17 to 32 the next: a new sentence rarely needs a new recording."""


class Engine:
    """The memory of B robots and the two computations of a step, as plain calls; base of the accelerated ones."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.device = next(policy.parameters()).device
        self.memories: Tensor | None = (
            None  # (B, W, …), newest last; its shape is known after the first frame
        )

    def reset(self, ids: Tensor, mask: Tensor) -> None:
        """Forget everything; `ids (B, L)` int64 and `mask (B, L)` bool are the instructions from now on."""
        self.ids, self.mask = ids.to(self.device), mask.to(self.device)
        self.filled = torch.zeros(len(ids), dtype=torch.int64, device=self.device)  # frames since reset
        self.memories = None

    def look(self, pixels: Tensor, rows: np.ndarray) -> int:
        """Encode one new frame for each of the robots `rows`; `pixels (len(rows), 3, h, w)` uint8 on the CPU.

        Returns how many frames went through the backbone.
        """
        index = self._index(rows)
        memory = self.policy.encode_frames(pixels.to(self.device), self.ids[index], self.mask[index])
        if self.memories is None:
            self.memories = memory.new_zeros((len(self.ids), self.policy.window, *memory.shape[1:]))
        self.memories[index] = pushed(self.memories[index], memory)
        self.filled[index] += 1
        return len(rows)

    def plan(self, rows: np.ndarray) -> np.ndarray:
        """Fresh chunks `(len(rows), H, A)` float32 of the robots `rows`, from what they remember."""
        assert self.memories is not None
        index = self._index(rows)
        seen = window_mask(self.filled[index], self.policy.window)
        chunk = self.policy.act(self.memories[index], seen, self.ids[index], self.mask[index])
        chunks: np.ndarray = chunk.float().cpu().numpy()
        return chunks

    def _index(self, rows: np.ndarray) -> Any:
        """All robots are a view, which costs neither a copy nor a transfer."""
        return slice(None) if len(rows) == len(self.ids) else torch.from_numpy(rows).to(self.device)


class FixedEngine(Engine):
    """All B robots in every step, on tensors that stay where they are; robots that do not drive keep their memory.

    Attributes:
        pixels: `(B, 3, h, w)` uint8, the newest frames; None before the first frame tells their size.
        active: `(B,)` bool, robots that drive in this step.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.pixels: Tensor | None = None
        self._encode: Callable[..., Tensor] = policy.encode_frames
        self._act: Callable[..., Tensor] = policy.act

    def reset(self, ids: Tensor, mask: Tensor) -> None:
        pad = -ids.shape[1] % PAD_TOKENS
        ids = functional.pad(ids, (0, pad), value=self.policy.backbone.pad_token)
        mask = functional.pad(mask, (0, pad), value=False)
        if self.memories is not None and ids.shape == self.ids.shape:
            self.ids.copy_(ids)
            self.mask.copy_(mask)
            self.filled.zero_()
            self.memories.zero_()
            return
        super().reset(ids, mask)
        if self.pixels is not None:  # the size of frames is known: prepare now, not in the first step
            self._allocate(self.pixels.shape[1:])

    def look(self, pixels: Tensor, rows: np.ndarray) -> int:
        if self.pixels is None or self.pixels.shape[1:] != pixels.shape[1:]:
            self._allocate(pixels.shape[1:])
        assert self.pixels is not None
        if self._sent is not None:
            self._sent.synchronize()  # an earlier transfer may still read what is written now
        index = torch.from_numpy(rows)
        self._frames[index] = pixels
        self._rows.zero_()
        self._rows[index] = True
        self.pixels.copy_(self._frames, non_blocking=True)
        self.active.copy_(self._rows, non_blocking=True)
        if self._sent is not None:
            self._sent.record()
        self.run_look()
        return len(self.ids)

    def plan(self, rows: np.ndarray) -> np.ndarray:
        chunks: np.ndarray = self.run_plan().cpu().numpy()
        return chunks[rows]

    def _allocate(self, shape: Sequence[int]) -> None:
        """Tensors for frames of `shape` (3, h, w), and whatever else a new shape costs."""
        b, cuda = len(self.ids), self.device.type == "cuda"
        self._frames = torch.zeros((b, *shape), dtype=torch.uint8, pin_memory=cuda)
        self._rows = torch.ones(b, dtype=torch.bool, pin_memory=cuda)
        self._sent = torch.cuda.Event() if cuda else None
        self.pixels, self.active = self._frames.to(self.device), self._rows.to(self.device)
        if self.memories is None:
            memory = self.policy.encode_frames(self.pixels, self.ids, self.mask)  # for its shape
            self.memories = memory.new_zeros((b, self.policy.window, *memory.shape[1:]))
        kept = self.memories.clone(), self.filled.clone()
        self.prepare()
        self.memories.copy_(kept[0])
        self.filled.copy_(kept[1])

    def prepare(self) -> None:
        """Called when a shape is new; may change what is remembered, which is put back afterwards."""

    def run_look(self) -> None:
        """Encodes `pixels` and pushes the memories of active robots into the ring."""
        assert self.memories is not None
        memory = self._encode(self.pixels, self.ids, self.mask)
        place = self.active.view(-1, *[1] * (self.memories.dim() - 1))
        self.memories.copy_(torch.where(place, pushed(self.memories, memory), self.memories))
        self.filled.add_(self.active)

    def run_plan(self) -> Tensor:
        """Chunks `(B, H, A)` float32 of all robots."""
        # A robot that has not begun has no frame, and heads need one: it gets the zeros of its ring, nobody its answer.
        seen = window_mask(self.filled.clamp(min=1), self.policy.window)
        return self._act(self.memories, seen, self.ids, self.mask).float()


class CompiledEngine(FixedEngine):
    """`encode_frames` and `act` through torch.compile; compiling for a new shape takes seconds to minutes."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self._encode = torch.compile(policy.encode_frames, mode=mode)
        self._act = torch.compile(policy.act, mode=mode)

    def prepare(self) -> None:
        for _ in range(3 if self.device.type == "cuda" else 1):  # compile, record (reduce-overhead), replay
            self.run_look()
            self.run_plan()

    def run_look(self) -> None:
        # Graphs may write over their results from here on; those of the last step have been copied.
        torch.compiler.cudagraph_mark_step_begin()
        super().run_look()


class GraphEngine(FixedEngine):
    """Both computations recorded as CUDA graphs (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs)."""

    _WARM_UP = 3
    """Runs on a side stream before recording, in which libraries choose kernels and allocate; torch's example has 3."""

    def prepare(self) -> None:
        with torch.cuda.device(self.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(self._WARM_UP):
                    super().run_look()
                    super().run_plan()
            torch.cuda.current_stream().wait_stream(side)
            self._look, self._plan = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._look):
                super().run_look()
            # One pool is safe: what `look` leaves behind lies outside it, so `plan` may write over the rest.
            with torch.cuda.graph(self._plan, pool=self._look.pool()):
                self._chunks = super().run_plan()

    def run_look(self) -> None:
        self._look.replay()

    def run_plan(self) -> Tensor:
        self._plan.replay()
        return self._chunks


def pushed(ring: Tensor, memory: Tensor) -> Tensor:
    """`ring (B, W, …)` without its oldest entry, and `memory (B, …)` behind the rest: a new tensor."""
    return torch.cat([ring[:, 1:], memory[:, None]], dim=1)


def window_mask(filled: Tensor, window: int) -> Tensor:
    """Frames since reset `(B,)` -> `(B, W)` bool, padding on the left, as in training."""
    places = torch.arange(window, device=filled.device)
    return places[None] >= window - filled[:, None]


def make_engine(policy: Policy, accelerate: str) -> Engine:
    """The engine of that name.

    Raises:
        ProjectError: no such name, or one that this device or this policy cannot run.
    """
    device = next(policy.parameters()).device
    if accelerate not in ACCELERATIONS:
        raise ProjectError(
            f"predictor: found accelerate={accelerate!r}, expected one of {', '.join(ACCELERATIONS)}; choose one."
        )
    if accelerate == "none":
        return Engine(policy)
    if not policy.history.per_frame:
        raise ProjectError(
            f"predictor: found accelerate={accelerate} with model/history=interleaved, whose sequences change their "
            "length until the window is full, expected fixed shapes; set accelerate=none."
        )
    if accelerate == "compile":
        return CompiledEngine(policy)
    if device.type != "cuda":
        raise ProjectError(
            f"predictor: found accelerate=cuda_graph on {device}, expected a CUDA device, which alone records graphs; "
            "set accelerate=none or compile, or move the policy to a GPU."
        )
    return GraphEngine(policy)
