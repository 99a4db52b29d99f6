"""The policy: backbone + LoRA placement + head + normaliser as one LightningModule (the lab's MobileVLATrainer).

In: packed `Batch`es. Out: losses while training, actions in SI units afterwards. Every distinct frame of a batch
goes through the backbone once, however many windows look at it; training, evaluation and a robot share this path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.data.normalizer import Normalizer
from src.model.backbone.base import Backbone
from src.model.heads.base import Head
from src.model.lora import Placement


class Policy(pl.LightningModule):
    """A window of frames and an instruction -> a chunk of actions."""

    low: Tensor
    high: Tensor

    def __init__(
        self,
        backbone: Backbone,
        lora: Placement,
        head: Callable[..., Head],
        action_space: ActionSpace,
        normalizer: Normalizer,
        window: int,
        horizon: int,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
    ) -> None:
        """
        Args:
            backbone: gives `states (N, Q, D)`.
            lora: which of the backbone's weights train.
            head: factory, completed with `state_size`, `horizon` and `action_dim`.
            action_space: axes, units and limits of the actions.
            normalizer: fitted on the training split; may be empty until a checkpoint is loaded.
            window: W, frames of history including the newest.
            horizon: H, actions per chunk.
            optimizer: factory over `parameter_groups()`; needed for training only.
            scheduler: factory over the optimizer and `total_steps`; null keeps the learning rate constant.

        Raises:
            ProjectError: window or horizon below 1.
        """
        super().__init__()
        for key, value in (("window", window), ("horizon", horizon)):
            if value < 1:
                raise ProjectError(f"data.{key}: found {value}, expected at least 1; correct it.")
        self.backbone = backbone
        self.placement_report = lora.apply(backbone)
        state_size = backbone.num_queries * backbone.hidden_size
        self.head = head(state_size=state_size, horizon=horizon, action_dim=action_space.dim)
        self.action_space = action_space
        self.normalizer = normalizer
        self.window, self.horizon = window, horizon
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        self.register_buffer("low", torch.tensor(action_space.low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.tensor(action_space.high, dtype=torch.float32), persistent=False)
        # The checkpoint holds what was trained; completeness is checked by `load_trained`, not by Lightning.
        self.strict_loading = False

    # ---- one path for training, evaluation and the robot

    def tokenize(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        """Instructions -> `ids (E, L)` int64 and `mask (E, L)` bool."""
        return self.backbone.tokenize(instructions)

    def encode_frames(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """`frames (N, 3, h, w)` uint8, `ids (N, L)`, `mask (N, L)` -> states `(N, Q, D)`."""
        states: Tensor = self.backbone(frames, ids, mask)
        return states

    def act(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` -> actions `(S, H, A)` in SI units, within the limits."""
        return self.decode(self.head(states, window_mask))

    def decode(self, prediction: Tensor) -> Tensor:
        """The head's prediction -> actions `(S, H, A)` in SI units, within the limits."""
        actions = self.normalizer.denormalize(self.head.decode(prediction))
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def windowed_states(self, batch: Batch) -> Tensor:
        """Encodes each distinct frame once and gathers its state into every window: `(S, W, Q, D)`."""
        states = self.encode_frames(
            batch.frames, batch.instruction_ids[batch.episode], batch.instruction_mask[batch.episode]
        )
        return states[batch.windows.clamp(min=0)]

    def predict(self, batch: Batch) -> Tensor:
        """Actions `(S, H, A)` in SI units for the samples of a batch."""
        return self.act(self.windowed_states(batch), batch.window_mask)

    # ---- training

    def compute_loss(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The head's named loss terms and its prediction."""
        prediction = self.head(self.windowed_states(batch), batch.window_mask)
        return self.head.loss(
            prediction, self.normalizer.normalize(batch.actions), batch.action_mask
        ), prediction

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, _ = self.compute_loss(batch)
        for name, value in terms.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=batch.size)
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        terms, prediction = self.compute_loss(batch)
        for name, value in terms.items():
            # The terms are means over valid steps; weighted so, the epoch's mean does not depend on the batches.
            steps = int(batch.action_mask.sum())
            self.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=steps)
        executed = self.decode(prediction)[:, 0]
        error = (executed - batch.actions[:, 0]).abs().mean(dim=0)
        for name, value in zip(self.action_space.names, error, strict=True):
            self.log(f"val/mae/{name}", value, batch_size=batch.size)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of the `backbone` (adapters, queries) and the `head`."""
        return {
            "backbone": [p for p in self.backbone.parameters() if p.requires_grad],
            "head": [p for p in self.head.parameters() if p.requires_grad],
        }

    def configure_optimizers(self) -> Any:
        if self.optimizer_factory is None:
            raise ProjectError("optimizer: found none, expected one for training; choose optimizer=adamw.")
        optimizer = self.optimizer_factory(self.parameter_groups())
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(
            optimizer, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def train(self, mode: bool = True) -> Policy:
        """Train mode, except that parts of the VLM with nothing to learn stay in eval mode (no dropout there)."""
        super().train(mode)
        for part in self.backbone.vlm.children():
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    # ---- what a checkpoint holds

    def trained_state(self) -> dict[str, Tensor]:
        """Trained weights and the normaliser: all a checkpoint needs beside the base model."""
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {k: v for k, v in self.state_dict().items() if k in trained or k.startswith("normalizer.")}

    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Strict counterpart of `trained_state`.

        Raises:
            ProjectError: a weight is missing, unexpected or of another shape.
        """
        expected = self.trained_state()
        missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        shapes = [k for k in expected.keys() & state.keys() if expected[k].shape != state[k].shape]
        shapes = [k for k in shapes if not k.startswith("normalizer.") or self.normalizer.fitted]
        for problem, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", sorted(shapes)),
        ):
            if names:
                raise ProjectError(
                    f"checkpoint: {len(names)} weights are {problem} (first: {names[0]}), expected those of this "
                    "configuration; load it with the configuration it was trained with."
                )
        self.load_state_dict(state, strict=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.trained_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.load_trained(checkpoint["state_dict"])
