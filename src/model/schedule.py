"""Learning-rate schedules over optimizer steps."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from src.core.errors import ProjectError


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.05, final_fraction: float = 0.01
) -> LambdaLR:
    """Linear warm-up from 0, then a half cosine (Loshchilov & Hutter 2017, arXiv:1608.03983).

    Args:
        optimizer: its learning rates are the peak.
        total_steps: optimizer steps of the whole run.
        warmup_fraction: share of `total_steps` spent warming up, 0 to 1.
        final_fraction: last learning rate over the peak.

    Raises:
        ProjectError: a fraction is outside [0, 1].
    """
    for name, value in (("warmup_fraction", warmup_fraction), ("final_fraction", final_fraction)):
        if not 0.0 <= value <= 1.0:
            raise ProjectError(
                f"scheduler.{name}: found {value}, expected a fraction from 0 to 1; correct it."
            )
    warmup = max(1, round(warmup_fraction * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
