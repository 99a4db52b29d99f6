"""Directions as classes: cross-entropy over the classes of the action space, for each step of the chunk.

In: states over the window; the training actions, once. Out: logits `(S, H, C)`; the chosen class decodes to the mean
training action of that class. Where each class is one action, as the lab's keys are, that mean is exactly the key's
action, and nothing is lost. For a base that also turns while it drives, something is: the simulator's actions lie 0.138
m/s or rad/s per axis from their class' mean (14,840 actions of `data=sim`); `hybrid` adds what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.core.errors import ProjectError
from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.base import masked_mean
from src.model.heads.encoder import WindowEncoder
from src.model.heads.fitted import FittedHead
from src.model.heads.regression import clean_targets


class ClassesHead(FittedHead):
    """Predicts logits `(S, H, C)` over `codec.space.class_names`, C classes.

    Buffers, filled by `fit` or a checkpoint:
        values: `(C, A)` normalised, the mean training action of each class; a class without training data keeps its
            direction times the limits.
        counts: `(C,)` int64, training actions of each class. A class with none is never chosen.
        weights: `(C,)`, weight of each class in the loss.
    """

    values: Tensor
    counts: Tensor
    weights: Tensor

    def __init__(
        self,
        state_size: int,
        window: int,
        horizon: int,
        codec: ActionCodec,
        layers: int = 4,
        hidden_size: int = 1024,
        mlp: Sequence[int] = (1024, 512, 256),
        dropout: float = 0.0,
        class_weights: Literal["none", "balanced"] = "none",
        label_smoothing: float = 0.0,
    ) -> None:
        """
        Args:
            layers, hidden_size, mlp, dropout: of the window's encoder, those of the LSTM head.
            class_weights: `balanced` weights a class by n / (K * its count), K classes with data, so that all of
                them weigh the same together (King & Zeng 2001, "Logistic regression in rare events data").
            label_smoothing: share of a target spread evenly over all classes (Szegedy et al. 2015,
                arXiv:1512.00567), 0 up to 1.

        Raises:
            ProjectError: the action space lists fewer than two classes, or an option is out of its range.
        """
        super().__init__(state_size, window, horizon, codec)
        names = codec.space.class_names
        if len(names) < 2:
            raise ProjectError(
                f"data.action.classes: found {len(names)}, expected at least two directions for a head that chooses "
                "among them; list them in the action space, or choose another model/head."
            )
        if class_weights not in ("none", "balanced"):
            raise checks.refuse("class_weights", class_weights, "none or balanced")
        checks.fraction(label_smoothing=label_smoothing)
        self.class_weights, self.label_smoothing = class_weights, label_smoothing
        self.classes = len(names)
        self.encoder = WindowEncoder(state_size, layers, hidden_size, mlp, dropout)
        self.output = nn.Linear(self.encoder.size, horizon * self.classes * self.outputs_per_class)
        self.register_buffer("values", torch.zeros(self.classes, self.action_dim))
        self.register_buffer("counts", torch.zeros(self.classes, dtype=torch.int64))
        self.register_buffer("weights", torch.ones(self.classes))

    @property
    def outputs_per_class(self) -> int:
        """Numbers predicted per class and step: the logit alone."""
        return 1

    def take(self, actions: Tensor) -> None:
        """Counts, mean actions and weights of the classes of `actions (n, A)`, normalised."""
        labels = self._classify(actions)
        counts = torch.bincount(labels, minlength=self.classes)
        sums = torch.zeros(self.classes, self.action_dim, dtype=torch.float64)
        sums.index_add_(0, labels, actions.double())
        present = counts > 0
        means = (sums / counts.clamp(min=1)[:, None]).float()
        self.values.copy_(torch.where(present[:, None], means, self._nominal()))
        self.counts.copy_(counts)
        self.weights.fill_(1.0)
        if self.class_weights == "balanced":
            # A class without training data keeps weight 1: validation may hold it, and it must count there.
            balanced = len(actions) / (present.sum() * counts.clamp(min=1))
            self.weights.copy_(torch.where(present, balanced, torch.ones_like(balanced)))

    def forward(self, states: Tensor, window_mask: Tensor) -> Tensor:
        """`states (S, W, Q, D)`, `window_mask (S, W)` bool -> `(S, H, C * outputs_per_class)`, logits first."""
        prediction: Tensor = self.output(self.encoder(states, window_mask))
        return prediction.view(len(states), self.horizon, -1)

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Terms `loss` and `classes`, the same number: weighted cross-entropy, mean over the valid steps.

        The mean divides by the number of steps, not by the sum of their weights, so a sample counts the same whatever
        else is in its batch. All classes compete, also those that `decode` never chooses: a validation target of a
        class without training data then costs what the head's doubt in it is worth, not infinity.
        """
        entropy = self._class_loss(prediction, self.labels(actions, action_mask), action_mask)
        return {"loss": entropy, "classes": entropy.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        """`(S, H, C)` -> `(S, H, A)` normalised: the mean training action of the likeliest class."""
        return self.values[self.choose(prediction)]

    def choose(self, prediction: Tensor) -> Tensor:
        """prediction -> `(S, H)` int64, the likeliest class that training data have.

        Raises:
            ProjectError: used before `fit`.
        """
        self.require_fit()
        logits = prediction[..., : self.classes].float()
        return logits.masked_fill(self.counts == 0, -torch.inf).argmax(dim=-1)

    def labels(self, actions: Tensor, action_mask: Tensor) -> Tensor:
        """`actions (S, H, A)` normalised, `action_mask (S, H)` bool -> `(S, H)` int64 classes; padding gets any."""
        return self._classify(clean_targets(actions, action_mask)).to(actions.device)

    def _class_loss(self, prediction: Tensor, labels: Tensor, action_mask: Tensor) -> Tensor:
        self.require_fit()
        logits = prediction[..., : self.classes].float()
        entropy = F.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=self.label_smoothing
        ).view_as(labels)
        return masked_mean((entropy * self.weights[labels])[..., None], action_mask)

    def _classify(self, actions: Tensor) -> Tensor:
        """Classes of normalised actions, computed where the normaliser's statistics are."""
        return self.codec.classify(actions.to(self.codec.normalizer.scale.device))

    def _nominal(self) -> Tensor:
        """`(C, A)` normalised: each class' direction times the limits, within the limits."""
        space = self.codec.space
        directions = np.array(list(space.classes.values())) * space.scale
        limited = torch.as_tensor(np.clip(directions, space.low, space.high), dtype=torch.float32)
        return self.codec.normalize(limited.to(self.codec.normalizer.scale.device)).cpu()
