"""Owns the policy at work: one camera frame in, one command out, for one robot or many.

In: uint8 RGB frames as a camera gives them, and an instruction per robot. Out: commands in SI units within the limits
of the action space. A ring of the last W memories per robot (src/deploy/engine.py) is kept, so each step encodes
exactly one new frame however long the window is. The closed-loop evaluation, a server and a robot all drive through
this one object.

    frame ──► resize (as in training) ──► encode_frames ──► ring of W memories ──► act ──► chunk (H, A) ──► action (A,)

Precision is that of the stored weights. Autocast is not offered: at batch 1 a step is bound by reading the weights, and
autocast would read those in float32, write them as bfloat16 and read them again, in every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.data.frames import resize_frames
from src.deploy.engine import PAD_TOKENS, make_engine
from src.model.policy import Policy


class BatchedPredictor:
    """Drives B robots (environments) at once with one policy.

    `image_size` is the side, in pixels, of the frames the policy was trained on; frames of another size are
    resized by the function that prepared the training data. None takes frames as they come.
    `execute` is the number of actions carried out before planning anew (receding horizon; 1 reacts fastest).
    `temporal_ensemble` m averages all overlapping chunks with weights exp(-m · age rank), the oldest chunk first
    (Zhao et al. 2023, ACT); it needs `execute` 1. None acts on the newest chunk alone.
    `accelerate`: `none`, `compile` or `cuda_graph`, see src/deploy/engine.py; changes speed, not actions. Those two
    compute all B robots in every step, whoever still drives, and cost time once per shape: they are for one robot.
    """

    def __init__(
        self,
        policy: Policy,
        image_size: int | None = None,
        execute: int = 1,
        temporal_ensemble: float | None = None,
        accelerate: str = "none",
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
        self.engine = make_engine(self.policy, accelerate)
        self.accelerate, self.device = accelerate, self.engine.device
        self.encoded_frames = 0  # how many frames went through the backbone since construction
        self._seen: np.ndarray | None = None  # frames since reset, per robot

    def reset(self, instructions: Sequence[str]) -> None:
        """Forget everything and give each of the B robots its instruction."""
        if not instructions:
            raise ProjectError("predictor: reset needs at least one instruction, got an empty list")
        self._start(*self.policy.tokenize(list(instructions)))

    @torch.inference_mode()
    def warm_up(self, robots: int = 1) -> None:
        """Take two steps on a blank frame and forget them, so that the first real one allocates and compiles nothing.

        Afterwards `reset` also prepares for sentences of a new length, so no later step does.
        """
        size = self.policy.backbone.image_size if self.image_size is None else self.image_size
        words = torch.full(
            (robots, PAD_TOKENS), self.policy.backbone.pad_token
        )  # what it reads costs the same
        self._start(words, torch.ones_like(words, dtype=torch.bool))
        for _ in range(2):
            self.step(np.zeros((robots, size, size, 3), dtype=np.uint8))
        self._seen, self.encoded_frames = None, 0

    @torch.inference_mode()
    def _start(self, ids: Tensor, mask: Tensor) -> None:
        self.engine.reset(ids, mask)
        b = len(ids)
        self._seen = np.zeros(b, dtype=np.int64)
        self._plan = np.zeros((b, self.horizon, self.action_dim), dtype=np.float32)  # newest chunk
        self._chunks = np.zeros((b, self.horizon, self.horizon, self.action_dim), dtype=np.float32)  # by age

    @torch.inference_mode()
    def step(self, frames: np.ndarray, active: np.ndarray | None = None) -> np.ndarray:
        """One control step.

        `frames` (B, H, W, 3) uint8 RGB; `active` (B,) bool, the robots still driving (default: all). Returns
        commands (B, A) float32 in SI units, zero for robots that are not active, whose memory also stays as is.
        """
        if self._seen is None:
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
        self.encoded_frames += self.engine.look(self._pixels(frames[rows]), rows)
        self._seen[rows] += 1
        due = rows[(self._seen[rows] - 1) % self.execute == 0]
        if len(due):
            self._replan(due)
        if self.temporal_ensemble is None:
            actions[rows] = self._plan[rows, (self._seen[rows] - 1) % self.execute]
        else:
            actions[rows] = self._ensemble(rows, self._seen[rows])
        return actions

    def _pixels(self, frames: np.ndarray) -> Tensor:
        """`(n, H, W, 3)` uint8 of a camera -> `(n, 3, h, w)`, by the function that resized the training frames."""
        if self.image_size is None:
            return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return resize_frames(frames, self.image_size)

    def _replan(self, rows: np.ndarray) -> None:
        """Ask the policy for a fresh chunk (H, A) for these robots."""
        self._plan[rows] = self.engine.plan(rows)
        if self.temporal_ensemble is not None:
            self._chunks[rows, 1:] = self._chunks[rows, :-1]
            self._chunks[rows, 0] = self._plan[rows]

    def _ensemble(self, rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """What every remembered chunk says about now, averaged: (len(rows), A); `seen` (len(rows),) frames each."""
        ages = np.arange(self.horizon)
        said = self._chunks[rows][:, ages, ages]  # the chunk planned `age` steps ago, at its entry `age`
        known = np.minimum(seen, self.horizon)[:, None]  # chunks planned so far
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
        accelerate: str = "none",
    ) -> None:
        self.batched = BatchedPredictor(policy, image_size, execute, temporal_ensemble, accelerate)
        self.policy = policy

    @classmethod
    def from_run(
        cls,
        folder: str | Path,
        checkpoint: str = "best",
        device: str = "cpu",
        execute: int = 1,
        temporal_ensemble: float | None = None,
        accelerate: str = "none",
        warm_up: bool = True,
    ) -> Predictor:
        """Load the policy of a run folder; `checkpoint` is `best` or `last`, `device` e.g. `cpu` or `cuda`.

        `warm_up` takes two steps on a blank frame now, so that the first command of a robot is not its slowest.
        """
        from src.experiment.checkpoint import load_policy

        policy, cfg = load_policy(Path(folder), checkpoint)
        size = int(cfg.data.image_size)
        predictor = cls(policy.to(device), size, execute, temporal_ensemble, accelerate)
        if warm_up:
            predictor.batched.warm_up()
        return predictor

    def reset(self, instruction: str) -> None:
        """Start a new episode with this instruction."""
        self.batched.reset([instruction])

    def step(self, frame: np.ndarray) -> np.ndarray:
        """`frame` (H, W, 3) uint8 RGB → command (A,) float32 in SI units."""
        return self.batched.step(frame[None])[0]
