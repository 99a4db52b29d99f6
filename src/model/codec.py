"""Owns the two directions between actions in SI units and what a head predicts.

In: an action space and the normaliser fitted on the training split. Out: normalised actions, SI actions, classes.
A plain object, not a module: heads hold it without owning the normaliser's statistics.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from src.data.actions import ActionSpace
from src.data.normalizer import Normalizer


@dataclass(frozen=True)
class ActionCodec:
    """An action space seen through a normaliser.

    Attributes:
        space: axes, units, limits and classes.
        normalizer: SI units <-> normalised; may have no statistics until a checkpoint is loaded.
    """

    space: ActionSpace
    normalizer: Normalizer

    @property
    def dim(self) -> int:
        """A, the number of axes."""
        return self.space.dim

    def normalize(self, actions: Tensor) -> Tensor:
        """`(..., A)` SI units -> `(..., A)` normalised."""
        return self.normalizer.normalize(actions)

    def denormalize(self, actions: Tensor) -> Tensor:
        """`(..., A)` normalised -> `(..., A)` SI units."""
        return self.normalizer.denormalize(actions)

    def classify(self, actions: Tensor) -> Tensor:
        """Classes of normalised actions: `(..., A)` -> `(...)` int64, indices into `space.class_names`.

        Raises:
            ProjectError: the action space lists no classes.
        """
        physical = self.denormalize(actions.detach().float()).cpu().numpy()
        return torch.from_numpy(self.space.classify(physical)).to(actions.device)
