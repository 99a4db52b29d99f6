"""Class and magnitude: cross-entropy on the direction, Huber regression of what the direction leaves open.

In: states over the window; the training actions, once. Out: logits and magnitudes `(S, H, C + C * A)`; an action is
the chosen class' mean training action plus the magnitude predicted for that class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.base import masked_mean
from src.model.heads.classes import ClassesHead
from src.model.heads.regression import clean_targets


class HybridHead(ClassesHead):
    """Predicts `(S, H, C + C * A)`: a logit per class, and a magnitude per class and axis.

    **The magnitude** is the normalised action minus the mean training action of its class, `(A,)` per class. One number
    per step along the class' direction would be less: a turn while driving lies between two directions, and its share
    across the chosen one would be lost; a stop has no direction at all. On the 14,840 actions of the simulator's data
    set (`data=sim`) the best such number leaves a mean error of 0.141 m/s or rad/s per axis, no better than the class'
    mean action alone (0.138). The difference from the mean rebuilds every action exactly, in the units of any
    normaliser, and a head that has learnt no magnitude yet is a `classes` head.
    (Class centre plus offset: Behavior Transformers, Shafiullah et al. 2022, arXiv:2206.11251.)

    Each class has its own magnitude, so two ways to pass a box are not averaged. Training shows the magnitude of the
    true class only; `decode` reads that of the chosen one.
    """

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
        magnitude_weight: float = 1.0,
        huber_delta: float = 1.0,
    ) -> None:
        """
        Args:
            layers, hidden_size, mlp, dropout: of the window's encoder, those of the LSTM head.
            class_weights, label_smoothing: of the cross-entropy, see ClassesHead.
            magnitude_weight: loss = classes + magnitude_weight * magnitude.
            huber_delta: error, in normalised action units, where the magnitude's loss turns from square to linear.

        Raises:
            ProjectError: the action space lists fewer than two classes, or an option is out of its range.
        """
        super().__init__(
            state_size, window, horizon, codec, layers, hidden_size, mlp, dropout, class_weights, label_smoothing
        )  # fmt: skip
        checks.positive(magnitude_weight=magnitude_weight, huber_delta=huber_delta)
        self.magnitude_weight, self.huber_delta = magnitude_weight, huber_delta

    @property
    def outputs_per_class(self) -> int:
        """Numbers predicted per class and step: the logit and one magnitude per axis."""
        return 1 + self.action_dim

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Terms `classes` (cross-entropy) and `magnitude` (Huber), means over the valid steps, and their sum `loss`."""
        labels = self.labels(actions, action_mask)
        entropy = self._class_loss(prediction, labels, action_mask)
        errors = F.huber_loss(
            self._rebuild(prediction, labels), clean_targets(actions, action_mask),
            reduction="none", delta=self.huber_delta,
        )  # fmt: skip
        magnitude = masked_mean(errors, action_mask)
        total = entropy + self.magnitude_weight * magnitude
        return {"loss": total, "classes": entropy.detach(), "magnitude": magnitude.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        """`(S, H, C + C * A)` -> `(S, H, A)` normalised: the likeliest class' mean action plus its magnitude."""
        return self._rebuild(prediction, self.choose(prediction))

    def _rebuild(self, prediction: Tensor, labels: Tensor) -> Tensor:
        """The action `(S, H, A)` that the prediction means under the classes `labels (S, H)`."""
        magnitudes = prediction[..., self.classes :].float().unflatten(-1, (self.classes, self.action_dim))
        index = labels[..., None, None].expand(*labels.shape, 1, self.action_dim)
        return self.values[labels] + magnitudes.gather(2, index)[..., 0, :]
