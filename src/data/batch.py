"""Owns the packed batch: the one structure that flows from the data room to the model and the evaluation.

Every distinct frame is present once; `windows` points into the frames, so overlapping histories cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from src.core.errors import ProjectError

PADDING = -1
"""The row number in `Batch.windows` that stands for 'no frame' (before the start of an episode)."""


@dataclass
class Batch:
    """S samples over N distinct frames of E episodes.

    Attributes:
        frames: (N, 3, h, w) uint8 RGB, the distinct frames.
        episode: (N,) int64, the row of `instruction_ids` that a frame belongs to.
        instruction_ids: (E, L) int64, one row per episode, right-padded.
        instruction_mask: (E, L) bool, true on real tokens.
        windows: (S, W) int64 rows into `frames`, oldest first, -1 = padding on the left.
        actions: (S, H, A) float32, raw targets in SI units, zeros where `action_mask` is false.
        action_mask: (S, H) bool, false beyond the end of the episode.
        keys: S pairs (episode id, t): where each sample comes from.
        mirrored: (E,) bool, the episodes whose frames are still to be flipped; their words and actions are mirrored
            already. None, like the next two, where nothing is to be done: in validation, and once it is done.
        colour: (E, 3) float32, factors of brightness, contrast and saturation still to be applied to the frames.
        view: (E, 3) float32, the part of the frames still to be cut out: its side as a share of the frame, and the
            shift of its centre to the right and down in pixels.
        origin: (N, 2) int64, what each frame is, whatever batch it is in: its number among all frames of the data set,
            and the number of its episode's wording; what was computed of it once is found by this (src/model/features).
            None where nobody said, and wherever frames or words are not those of the data set any more.
        max_frames: frames that may be worked on at once, see data.max_frames_per_batch; None sets no limit.
    """

    frames: Tensor
    episode: Tensor
    instruction_ids: Tensor
    instruction_mask: Tensor
    windows: Tensor
    actions: Tensor
    action_mask: Tensor
    keys: list[tuple[str, int]]
    mirrored: Tensor | None = None
    colour: Tensor | None = None
    view: Tensor | None = None
    origin: Tensor | None = None
    max_frames: int | None = None

    @property
    def pending(self) -> bool:
        """Whether the frames still wait for their augmentation (see `augmented`), so no model may see them yet."""
        return not (self.mirrored is None and self.colour is None and self.view is None)

    @property
    def window_mask(self) -> Tensor:
        """(S, W) bool, true where a window position holds a frame."""
        return self.windows >= 0

    @property
    def size(self) -> int:
        """S, the number of samples (the batch size for averaging logged values)."""
        return self.windows.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`, but `origin`: the look-up it is for happens on the CPU."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {
            one.name: getattr(self, one.name) for one in fields(self) if one.name != "origin"
        }
        moved = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        return Batch(**{**values, **moved}, origin=self.origin)

    def validate(self) -> None:
        """Raise a ProjectError unless every shape, type and index is what the attributes' docstring says."""
        _expect("frames", self.frames, torch.uint8, (None, 3, None, None))
        n, e, s = len(self.frames), len(self.instruction_ids), len(self.windows)
        _expect("episode", self.episode, torch.int64, (n,))
        _expect("instruction_ids", self.instruction_ids, torch.int64, (e, None))
        _expect("instruction_mask", self.instruction_mask, torch.bool, tuple(self.instruction_ids.shape))
        _expect("windows", self.windows, torch.int64, (s, None))
        _expect("actions", self.actions, torch.float32, (s, None, None))
        _expect("action_mask", self.action_mask, torch.bool, tuple(self.actions.shape[:2]))
        for name, draws, dtype, shape in (
            ("mirrored", self.mirrored, torch.bool, (e,)),
            ("colour", self.colour, torch.float32, (e, 3)),
            ("view", self.view, torch.float32, (e, 3)),
        ):
            if draws is not None:
                _expect(name, draws, dtype, shape)
        if self.origin is not None:
            _expect("origin", self.origin, torch.int64, (n, 2))
        _require(len(self.keys) == s, f"keys has {len(self.keys)} entries for {s} samples")
        _require(_within(self.episode, 0, e), f"episode must index the {e} rows of instruction_ids")
        _require(_within(self.windows, PADDING, n), f"windows must index the {n} frames or be -1")
        mask = self.window_mask
        _require(bool(mask[:, -1:].all()), "windows must end in a real frame")
        _require(bool((mask[:, 1:] >= mask[:, :-1]).all()), "windows must be padded on the left only")
        text = self.instruction_mask
        _require(
            bool((text[:, 1:] <= text[:, :-1]).all()), "instruction_mask must be padded on the right only"
        )
        steps = self.action_mask
        _require(bool(steps[:, :1].all()), "action_mask must be true at the first step of every sample")
        _require(bool((steps[:, 1:] <= steps[:, :-1]).all()), "action_mask must be padded on the right only")
        _require(bool(torch.isfinite(self.actions).all()), "actions hold NaN or infinity")
        rows = self.episode[self.windows.clamp(min=0)]
        _require(bool(((rows == rows[:, -1:]) | ~mask).all()), "a window mixes frames of two episodes")


def _within(index: Tensor, low: int, high: int) -> bool:
    return index.numel() == 0 or bool(((index >= low) & (index < high)).all())


def _expect(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]) -> None:
    found = tuple(tensor.shape)
    fits = len(found) == len(shape) and all(w is None or w == g for w, g in zip(shape, found, strict=True))
    wanted = "(" + ", ".join("*" if w is None else str(w) for w in shape) + ")"
    _require(fits and tensor.dtype == dtype, f"{name} is {tensor.dtype} {found}, expected {dtype} {wanted}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ProjectError(f"Batch: {message}; whoever built this batch broke the packed layout.")
