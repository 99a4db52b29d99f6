"""The policy: backbone + LoRA placement + history + head + normaliser as one LightningModule (the lab's
MobileVLATrainer).

In: packed `Batch`es. Out: losses while training, actions in SI units afterwards. Every distinct frame of a batch
is seen once, however many windows look at it; training, evaluation and a robot share this path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.core.errors import ProjectError
from src.data.actions import ActionSpace
from src.data.batch import Batch
from src.data.normalizer import Normalizer
from src.model.backbone.base import Backbone
from src.model.codec import ActionCodec
from src.model.features.stages import find_stage
from src.model.heads.base import Head
from src.model.history import History
from src.model.lora import Placement
from src.model.parts import in_parts
from src.model.senses import SENSES, Senses

if TYPE_CHECKING:
    from src.model.features.cache import KeptFeatures


class Policy(pl.LightningModule):
    """A window of frames and an instruction -> a chunk of actions."""

    low: Tensor
    high: Tensor

    def __init__(
        self,
        backbone: Backbone,
        lora: Placement,
        history: History,
        head: Callable[..., Head],
        action_space: ActionSpace,
        normalizer: Normalizer,
        window: int,
        horizon: int,
        senses: Sequence[str] = SENSES,
        compile: bool = False,
        optimizer: Callable[..., Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
    ) -> None:
        """
        Args:
            backbone: gives states `(S, Q, D)`.
            lora: which of the backbone's weights train.
            history: whether the head or the backbone models time.
            head: factory, completed with `state_size`, `window`, `horizon` and `codec`.
            action_space: axes, units and limits of the actions.
            normalizer: fitted on the training split; may be empty until a checkpoint is loaded.
            window: W, frames of history including the newest.
            horizon: H, actions per chunk.
            senses: what it perceives, `image` and `words`; without one of them it is a blind or a deaf arm.
            compile: `torch.compile` the parts of the backbone and the head; changes speed, not meaning.
            optimizer: factory over `parameter_groups()`; needed for training only.
            scheduler: factory over the optimizer and `total_steps`; null keeps the learning rate constant.

        Raises:
            ProjectError: window or horizon below 1, or parts that do not fit together.
        """
        super().__init__()
        for key, value in (("window", window), ("horizon", horizon)):
            if value < 1:
                raise ProjectError(f"data.{key}: found {value}, expected at least 1; correct it.")
        self.backbone = backbone
        self.placement_report = lora.apply(backbone)
        self.history = history
        self.stage = find_stage(backbone, history)
        self.features: KeptFeatures | None = None  # no module: a checkpoint knows nothing of it
        self.senses = Senses(senses)
        self.head = head(
            state_size=backbone.num_queries * backbone.hidden_size,
            window=history.positions(backbone, window),
            horizon=horizon,
            codec=ActionCodec(action_space, normalizer),
        )
        self.action_space = action_space
        self.normalizer = normalizer
        self.window, self.horizon = window, horizon
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        self.register_buffer("low", torch.tensor(action_space.low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.tensor(action_space.high, dtype=torch.float32), persistent=False)
        # The checkpoint holds what was trained; completeness is checked by `load_trained`, not by Lightning.
        self.strict_loading = False
        self.compiled = compile
        if compile:
            # Inner modules, in place: names of weights stay, and compiling a LightningModule itself fails (torch 2.13).
            for part in self.stage.parts(backbone):
                part.compile()
            self.head.compile()

    def fit_actions(self, actions: np.ndarray) -> None:
        """Gives the head the training split's actions `(n, A)` in SI units: class shares, ranges of bins."""
        self.head.fit(self.normalizer.normalize(torch.as_tensor(actions, dtype=torch.float32)))

    # ---- one path for training, evaluation and the robot

    def tokenize(self, instructions: list[str]) -> tuple[Tensor, Tensor]:
        """Instructions -> `ids (E, L)` int64 and `mask (E, L)` bool; all alike where the policy is deaf."""
        return self.backbone.tokenize(self.senses.hear(instructions))

    def encode_frames(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """`frames (N, 3, h, w)` uint8, `ids (N, L)`, `mask (N, L)` -> memory `(N, …)`: what a frame leaves behind."""
        return self.upper(self.lower(frames, ids, mask), ids, mask)

    def lower(self, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The frozen first part of `encode_frames`, which may be kept, `(N, …)`; see src/model/features/stages.py."""
        with torch.no_grad():
            return self.stage.lower(self.backbone, self.history, self.senses.see(frames), ids, mask)

    def upper(self, kept: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The rest of `encode_frames`: what `lower` gave, and the same words -> memory `(N, …)`."""
        return self.stage.upper(self.backbone, self.history, kept, ids, mask)

    def respond(self, memory: Tensor, window_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Memory `(S, W, …)`, `window_mask (S, W)`, `ids (S, L)`, `mask (S, L)` -> the head's prediction."""
        prediction: Tensor = self.head(*self.history.states(self.backbone, memory, window_mask, ids, mask))
        return prediction

    def act(self, memory: Tensor, window_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """As `respond`, decoded: actions `(S, H, A)` in SI units, within the limits."""
        return self.decode(self.respond(memory, window_mask, ids, mask))

    def decode(self, prediction: Tensor) -> Tensor:
        """The head's prediction -> actions `(S, H, A)` in SI units, within the limits."""
        actions = self.normalizer.denormalize(self.head.decode(prediction).float())
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def prediction(self, batch: Batch) -> Tensor:
        """The head's prediction for the S samples of a batch; each distinct frame is encoded once."""
        if batch.pending:
            raise RuntimeError("the batch still waits for its augmentation; its data module carries it out")
        ids, mask, rows = batch.instruction_ids, batch.instruction_mask, batch.episode
        most, together = batch.max_frames, self.device_mesh is not None
        kept = self._kept(batch, ids[rows], mask[rows])
        memory = in_parts(self.upper, (kept, ids[rows], mask[rows]), most, together)
        owner = rows[batch.windows[:, -1]]  # the newest position always holds a frame
        windows = batch.windows.clamp(min=0)
        if self.history.per_frame or most is None:
            return self.respond(memory[windows], batch.window_mask, ids[owner], mask[owner])
        # The text model reads whole windows, so it is them that are limited.
        return in_parts(
            lambda at, *rest: self.respond(memory[at], *rest),
            (windows, batch.window_mask, ids[owner], mask[owner]),
            max(1, most // self.window),
            together,
        )

    def _kept(self, batch: Batch, ids: Tensor, mask: Tensor) -> Tensor:
        """What `lower` gives for every frame of the batch, computed where it is not known yet."""
        everything, most, together = (batch.frames, ids, mask), batch.max_frames, self.device_mesh is not None
        if self.features is None or batch.origin is None or (self.training and not self.features.in_training):
            with torch.no_grad():
                return in_parts(self.lower, everything, most, together)

        @torch.no_grad()
        def compute(rows: Tensor) -> Tensor:
            return in_parts(self.lower, [one[rows] for one in everything], most)

        return self.features.get(batch.origin, compute, ids.device)

    def predict(self, batch: Batch) -> Tensor:
        """Actions `(S, H, A)` in SI units for the samples of a batch."""
        return self.decode(self.prediction(batch))

    # ---- training

    def configure_model(self) -> None:
        """Divide the frozen weights among the processes of trainer=fsdp; there is nothing to do anywhere else."""
        if self.device_mesh is not None:
            from src.model.sharding import shard_frozen

            shard_frozen(self, self.device_mesh["data_parallel"])

    def compute_loss(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """The head's named loss terms and its prediction."""
        prediction = self.prediction(batch)
        targets = self.normalizer.normalize(batch.actions)
        return self.head.loss(prediction, targets, batch.action_mask), prediction

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms, _ = self.compute_loss(batch)
        for name, value in terms.items():
            # The mean over processes, where several train: that is what they minimise.
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=batch.size, sync_dist=True)
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        terms, prediction = self.compute_loss(batch)
        for name, value in terms.items():
            # The terms are means over valid steps; weighted so, the epoch's mean does not depend on the batches.
            steps = int(batch.action_mask.sum())
            self.log(f"val/{name}", value, prog_bar=name == "loss", batch_size=steps)
        executed = self.decode(prediction)[:, 0]
        error = (executed - batch.actions[:, 0]).abs().mean(dim=0)
        # Of all axes in one figure, as shares of their limits: what searches compare policies of any head by.
        share = (error / ((self.high - self.low) / 2)).mean()
        self.log("val/error", share, batch_size=batch.size)
        for name, value in zip(self.action_space.names, error, strict=True):
            self.log(f"val/mae/{name}", value, batch_size=batch.size)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters of the `backbone` (adapters or its own weights), its `queries`, and the `head`."""
        members = {
            "backbone": self.backbone.network.parameters(),
            "queries": iter([self.backbone.queries]),
            "head": self.head.parameters(),
        }
        return {name: [p for p in group if p.requires_grad] for name, group in members.items()}

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
        """Train mode, except that parts of the backbone with nothing to learn stay in eval mode (no dropout there)."""
        super().train(mode)
        for part in self.backbone.network.children():
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
                if mode:
                    _keep_recomputing(part)
        for part in self.stage.still(self.backbone):
            part.eval()
        return self

    # ---- what a checkpoint holds

    def trained_state(self) -> dict[str, Tensor]:
        """Trained weights, the buffers beside them, and the normaliser: all a checkpoint needs beside the base."""
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for path, module in self.named_modules():
            trains = any(p.requires_grad for p in module.parameters(recurse=False))
            if trains or path.split(".")[0] in ("head", "normalizer"):
                kept |= {f"{path}.{name}" for name, _ in module.named_buffers(recurse=False)}
        return {name: value for name, value in self.state_dict().items() if name in kept}

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


def _keep_recomputing(part: nn.Module) -> None:
    """Lets layers of a frozen part recompute their activations: gradients to queries or to a part below pass through.

    The library does so in train mode only. So such a layer is put back into it alone, without its children, and its
    own dropout rates are set to zero: a part that never learns never drops anything.
    """
    for layer in part.modules():
        if getattr(layer, "gradient_checkpointing", False):
            layer.training = True
            for name, value in vars(layer).items():
                if "drop" in name and isinstance(value, float):
                    setattr(layer, name, 0.0)
