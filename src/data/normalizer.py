"""Owns the scaling of actions between SI units and the numbers a network likes; nobody else scales actions.

In: the valid actions of the training split. Out: an nn.Module whose statistics are buffers, so they travel in the
checkpoint with the policy and are inverted exactly when actions are decoded.

Nothing is clipped here, whatever the kind. OpenVLA clips to [-1, 1] behind its 1 % and 99 % quantiles because its
bins end there; openpi (pi0) uses the same quantiles and does not. Clipping would change targets without a word, score
a policy against actions that nobody drove, and have no inverse. Where a range must end, its owner ends it in the
open: the `bins` head in its bins, the policy at the limits of the action space.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from src.core.errors import ProjectError

_SMALLEST_SPREAD = 1e-6
"""Spread (SI units) below which an axis counts as constant; it is then shifted but not scaled."""


class Normalizer(nn.Module, ABC):
    """Per-axis affine map: normalised = (action - offset) / scale.

    Buffers `offset` and `scale`, both (A,) float32, are empty until `fit` or until a checkpoint is loaded.
    """

    offset: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.zeros(0))
        self.register_buffer("scale", torch.zeros(0))

    @property
    def fitted(self) -> bool:
        """Whether statistics are present."""
        return self.scale.numel() > 0

    def fit(self, actions: np.ndarray) -> None:
        """Take the statistics of `actions`, (n, A) in SI units, the training split only."""
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or not len(actions):
            raise ProjectError(
                f"the normaliser was given actions of shape {actions.shape}, expected (n > 0, A)."
            )
        if not np.isfinite(actions).all():
            raise ProjectError(
                "the normaliser was given NaN or infinite actions; check the training episodes."
            )
        offset, spread = self.statistics(actions)
        scale = np.where(spread > _SMALLEST_SPREAD, spread, 1.0)
        self.offset = torch.as_tensor(offset, dtype=torch.float32, device=self.offset.device)
        self.scale = torch.as_tensor(scale, dtype=torch.float32, device=self.scale.device)

    @abstractmethod
    def statistics(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offset and spread, each (A,), of actions (n, A)."""

    def normalize(self, actions: Tensor) -> Tensor:
        """(..., A) SI units -> (..., A) normalised."""
        self._check(actions)
        return (actions - self.offset) / self.scale

    def denormalize(self, actions: Tensor) -> Tensor:
        """(..., A) normalised -> (..., A) SI units."""
        self._check(actions)
        return actions * self.scale + self.offset

    def forward(self, actions: Tensor) -> Tensor:
        """The same as `normalize`."""
        return self.normalize(actions)

    def _check(self, actions: Tensor) -> None:
        if not self.fitted:
            raise ProjectError(
                "the normaliser has no statistics yet; call datamodule.setup('fit') or load a checkpoint first."
            )
        if actions.shape[-1] != self.scale.numel():
            raise ProjectError(
                f"the normaliser knows {self.scale.numel()} axes, the actions have {actions.shape[-1]}."
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A fresh normaliser does not know A yet; take the checkpoint's size so that strict loading works.
        for name in ("offset", "scale"):
            stored = state_dict.get(prefix + name)
            if stored is not None and not self.fitted:
                setattr(self, name, torch.zeros_like(stored, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args)


class MinMaxNormalizer(Normalizer):
    """Maps the smallest and largest training action of each axis to -1 and 1."""

    def statistics(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Middle and half range, each (A,)."""
        low, high = actions.min(axis=0), actions.max(axis=0)
        return (low + high) / 2, (high - low) / 2


class QuantileNormalizer(Normalizer):
    """Maps the `low` and the `high` quantile of each axis to -1 and 1; what is beyond stays what it is.

    An axis that moves in less than the share `low` of the actions has both quantiles at rest: it counts as constant
    and stays in SI units. The default shares are those of OpenVLA (arXiv:2406.09246) and pi0.

    Args:
        low: share of the training actions below -1, 0 or more.
        high: share of the training actions below 1, above `low`, 1 or less. 0 and 1 give min-max.
    """

    def __init__(self, low: float = 0.01, high: float = 0.99) -> None:
        super().__init__()
        if not 0 <= low < high <= 1:
            raise ProjectError(
                f"data.normalizer has low {low} and high {high}; expected shares with 0 <= low < high <= 1."
            )
        self.low, self.high = low, high

    def statistics(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Middle and half range of the two quantiles (linear interpolation), each (A,)."""
        low, high = np.quantile(actions, [self.low, self.high], axis=0)
        return (low + high) / 2, (high - low) / 2


class MeanStdNormalizer(Normalizer):
    """Maps the training actions of each axis to mean 0 and standard deviation 1."""

    def statistics(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each (A,)."""
        return actions.mean(axis=0), actions.std(axis=0)


class IdentityNormalizer(Normalizer):
    """Leaves actions in SI units."""

    def statistics(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zeros and ones, each (A,)."""
        return np.zeros(actions.shape[1]), np.ones(actions.shape[1])
