"""What the heads that regress actions share: Huber loss over the valid steps, and the prediction as the action.

In: a prediction `(S, H * A)`. Out: the loss, and actions `(S, H, A)`. The window is the business of each head.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from src.model.codec import ActionCodec
from src.model.heads import checks
from src.model.heads.base import Head, masked_mean


def clean_targets(actions: Tensor, action_mask: Tensor) -> Tensor:
    """`actions (S, H, A)` in float32 with zeros where `action_mask (S, H)` is False: padding may hold anything."""
    return actions.float().masked_fill(~action_mask[..., None], 0.0)


class RegressionHead(Head):
    """Predicts one number per axis and step.

    Where the data answer one situation in two ways, such a head drives the middle between them: the Huber loss of
    both is least there. `bins` and `flow` do not.
    """

    def __init__(
        self, state_size: int, window: int, horizon: int, codec: ActionCodec, huber_delta: float
    ) -> None:
        """
        Args:
            huber_delta: error, in normalised action units, where the loss turns from square to linear.

        Raises:
            ProjectError: huber_delta is not above 0.
        """
        super().__init__(state_size, window, horizon, codec)
        checks.positive(huber_delta=huber_delta)
        self.huber_delta = huber_delta

    def loss(self, prediction: Tensor, actions: Tensor, action_mask: Tensor) -> dict[str, Tensor]:
        """Terms `loss` and `huber`, the same number."""
        targets = clean_targets(actions, action_mask)
        errors = F.huber_loss(self.decode(prediction), targets, reduction="none", delta=self.huber_delta)
        huber = masked_mean(errors, action_mask)
        return {"loss": huber, "huber": huber.detach()}

    def decode(self, prediction: Tensor) -> Tensor:
        """`(S, H * A)` -> `(S, H, A)` normalised, float32."""
        return prediction.float().view(-1, self.horizon, self.action_dim)
