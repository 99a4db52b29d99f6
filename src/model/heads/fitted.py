"""What the heads share that need statistics of the training actions: they refuse to work before they have them.

In: the training split's actions, normalised, once (`fit`); or a checkpoint's buffers. Out: the flag `fitted`, which
travels with the statistics in the checkpoint.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from src.core.errors import ProjectError
from src.model.codec import ActionCodec
from src.model.heads.base import Head


class FittedHead(Head):
    """A head with statistics in persistent buffers of fixed shape."""

    fitted: Tensor

    def __init__(self, state_size: int, window: int, horizon: int, codec: ActionCodec) -> None:
        super().__init__(state_size, window, horizon, codec)
        self.register_buffer("fitted", torch.tensor(False))
        self._known_fitted = False

    @abstractmethod
    def take(self, actions: Tensor) -> None:
        """Copies the statistics of `actions (n, A)`, normalised float32 on the CPU, into the buffers."""

    def fit(self, actions: Tensor) -> None:
        """Takes the statistics of the training split's actions `(n, A)`, normalised.

        Raises:
            ProjectError: no action, another number of axes, or a value that is NaN or infinite.
        """
        if actions.ndim != 2 or actions.shape[1] != self.action_dim or not len(actions):
            raise ProjectError(
                f"model.head: found training actions of shape {tuple(actions.shape)}, expected "
                f"(n > 0, {self.action_dim}); check the training split."
            )
        if not actions.isfinite().all():
            raise ProjectError(
                "model.head: found NaN or infinite training actions, expected finite ones; check the episodes."
            )
        self.take(actions.detach().float().cpu())
        self.fitted.fill_(True)
        self._known_fitted = True

    def require_fit(self) -> None:
        """Stops a head without statistics: zeros in their place would look like a policy that stands still.

        Raises:
            ProjectError: neither `fit` nor a checkpoint has brought them.
        """
        if not self._known_fitted:
            self._known_fitted = bool(self.fitted)  # once: reading a flag makes the program wait for a GPU
        if not self._known_fitted:
            raise ProjectError(
                f"model.head: found a {type(self).__name__} without statistics of the training actions, expected "
                "them before its first use; call fit with the training actions or load a checkpoint."
            )

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._known_fitted = False  # the checkpoint decides
