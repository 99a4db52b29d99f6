"""Owns the policy at work: one camera frame in, one command out, for one robot or many.

In: uint8 RGB frames as a camera gives them, and an instruction per robot. Out: commands in SI units within the limits
of the action space. A ring of the last W memories per robot (see src/model/history.py) is kept, so each step encodes
exactly one new frame however long the window is. The closed-loop evaluation, a server and a robot all drive through
this one object.

    frame ──► resize (as in training) ──► encode_frames ──► ring of W memories ──► act ──► chunk (H, A) ──► action (A,)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.data.frames import resize_frames
from src.model.policy import Policy


class BatchedPredictor:
    """Drives B robots (environments) at once with one policy.

    `image_size` is the side, in pixels, of the frames the policy was trained on; frames of another size are
    resized by the function that prepared the training data. None takes frames as they come.
    `execute` is the number of actions carried out before planning anew (receding horizon; 1 reacts fastest).
    `temporal_ensemble` m averages all overlapping chunks with weights exp(-m · age rank), the oldest chunk first
    (Zhao et al. 2023, ACT); it needs `execute` 1. None acts on the newest chunk alone.
    """

    def __init__(
        self,
        policy: Policy,
        image_size: int | None = None,
        execute: int = 1,
        temporal_ensemble: float | None = None,
    ) -> None:
        if not 1 <= execute <= policy.horizon:
            raise ProjectError(
                f"predictor: execute={execute} actions of a chunk of {policy.horizon}; "
                f"choose execute between 1 and {policy.horizon} or train with a longer data.horizon"
            )
        if temporal_ensemble is not None and execute != 1:
            raise ProjectError(
                f"predictor: temporal_ensemble averages the chunks of every step, but execute={execute} plans only "
                f"every {execute} steps; set execute=1 or temporal_ensemble=null"
            )
        self.policy = policy.eval()
        self.image_size = image_size
        self.execute = execute
        self.temporal_ensemble = temporal_ensemble
        self.window, self.horizon = policy.window, policy.horizon
        self.action_dim = policy.action_space.dim
        self.device = next(policy.parameters()).device
        self.encoded_frames = 0  # how many frames went through the backbone since construction
        self._ids: Tensor | None = None

    def reset(self, instructions: Sequence[str]) -> None:
        """Forget everything and give each of the B robots its instruction."""
        if not instructions:
            raise ProjectError("predictor: reset needs at least one instruction, got an empty list")
        ids, mask = self.policy.tokenize(list(instructions))
        self._ids, self._mask = ids.to(self.device), mask.to(self.device)
        b = len(instructions)
        self._ring: Tensor | None = None  # (B, W, …), newest last; its shape is known after the first frame
        self._seen = np.zeros(b, dtype=np.int64)  # frames since reset, per robot
        self._plan = np.zeros((b, self.horizon, self.action_dim), dtype=np.float32)  # newest chunk
        self._chunks = np.zeros((b, self.horizon, self.horizon, self.action_dim), dtype=np.float32)  # by age

    @torch.inference_mode()
    def step(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """One control step.

        `frames` (B, H, W, 3) uint8 RGB; `active` (B,) bool, the robots still driving (default: all). Returns
        commands (B, A) float32 in SI units, zero for robots that are not active, whose memory also stays as is.
        """
        if self._ids is None:
            raise ProjectError("predictor: step was called before reset(instruction)")
        b = len(self._seen)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[0] != b or frames.shape[-1] != 3:
            raise ProjectError(
                f"predictor: expected frames ({b}, height, width, 3) uint8 RGB, got {frames.shape} {frames.dtype}"
            )
        rows = np.arange(b) if active is None else np.flatnonzero(active)
        actions = np.zeros((b, self.action_dim), dtype=np.float32)
        if len(rows) == 0:
            return actions
        self._remember(frames[rows], rows)
        due = rows[(self._seen[rows] - 1) % self.execute == 0]
        if len(due):
            self._replan(due)
        if self.temporal_ensemble is None:
            actions[rows] = self._plan[rows, (self._seen[rows] - 1) % self.execute]
        else:
            actions[rows] = self._ensemble(rows)
        return actions

    def _remember(self, frames: np.ndarray, rows: np.ndarray) -> None:
        """Encode one new frame per active robot and push its memory into the ring."""
        assert self._ids is not None
        if self.image_size is None:
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        else:
            pixels = resize_frames(frames, self.image_size)
        index = torch.from_numpy(rows).to(self.device)
        memory = self.policy.encode_frames(pixels.to(self.device), self._ids[index], self._mask[index])
        self.encoded_frames += len(rows)
        if self._ring is None:
            self._ring = memory.new_zeros((len(self._seen), self.window, *memory.shape[1:]))
        self._ring[index] = torch.cat([self._ring[index, 1:], memory[:, None]], dim=1)
        self._seen[rows] += 1

    def _replan(self, rows: np.ndarray) -> None:
        """Ask the policy for a fresh chunk (H, A) for these robots."""
        assert self._ring is not None and self._ids is not None
        index = torch.from_numpy(rows).to(self.device)
        filled = torch.from_numpy(self._seen[rows]).to(self.device)
        places = torch.arange(self.window, device=self.device)
        window_mask = places[None] >= self.window - filled[:, None]  # left-padded, as in training
        chunk = self.policy.act(self._ring[index], window_mask, self._ids[index], self._mask[index])
        self._plan[rows] = chunk.float().cpu().numpy()
        if self.temporal_ensemble is not None:
            self._chunks[rows, 1:] = self._chunks[rows, :-1]
            self._chunks[rows, 0] = self._plan[rows]

    def _ensemble(self, rows: np.ndarray) -> np.ndarray:
        """What every remembered chunk says about now, averaged: (len(rows), A)."""
        ages = np.arange(self.horizon)
        said = self._chunks[rows][:, ages, ages]  # the chunk planned `age` steps ago, at its entry `age`
        known = np.minimum(self._seen[rows], self.horizon)[:, None]  # chunks planned so far
        rank = known - 1 - ages[None]  # 0 for the oldest
        weights = np.where(
            rank >= 0, np.exp(-float(self.temporal_ensemble or 0.0) * np.maximum(rank, 0)), 0.0
        )
        weights /= weights.sum(axis=1, keepdims=True)
        return np.einsum("nh,nha->na", weights, said).astype(np.float32)


class Predictor:
    """Drives one robot: the batch of one of `BatchedPredictor`, so both take the same path."""

    def __init__(
        self,
        policy: Policy,
        image_size: int | None = None,
        execute: int = 1,
        temporal_ensemble: float | None = None,
    ) -> None:
        self.batched = BatchedPredictor(policy, image_size, execute, temporal_ensemble)
        self.policy = policy

    @classmethod
    def from_run(
        cls,
        folder: str | Path,
        checkpoint: str = "best",
        device: str = "cpu",
        execute: int = 1,
        temporal_ensemble: float | None = None,
    ) -> Predictor:
        """Load the policy of a run folder; `checkpoint` is `best` or `last`, `device` e.g. `cpu` or `cuda`."""
        from src.experiment.checkpoint import load_policy

        policy, cfg = load_policy(Path(folder), checkpoint)
        return cls(policy.to(device), int(cfg.data.image_size), execute, temporal_ensemble)

    def reset(self, instruction: str) -> None:
        """Start a new episode with this instruction."""
        self.batched.reset([instruction])

    def step(self, frame: np.ndarray) -> np.ndarray:
        """`frame` (H, W, 3) uint8 RGB → command (A,) float32 in SI units."""
        return self.batched.step(frame[None])[0]
