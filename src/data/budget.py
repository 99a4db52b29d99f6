"""Owns what data.max_frames_per_batch may be, and the batch of an epoch that asks for the most memory.

In: the key's value; the plans of an epoch. Out: a number, or a sentence; one batch, for the only one assembled is that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from src.core.errors import ProjectError
from src.data.assemble import BatchAssembler
from src.data.batch import Batch
from src.data.sampler import Plan
from src.data.windows import history

Budget = int | Literal["auto"] | None
"""Frames at once: a number, one that the run finds itself, or no limit."""


def checked(budget: Budget, window: int) -> Budget:
    """`budget`, if frames can be worked on so.

    Raises:
        ProjectError: another word than auto, or less than one window, which is the least that makes a sample.
    """
    if budget is None or budget == "auto" or (isinstance(budget, int) and budget >= window):
        return budget
    raise ProjectError(
        f"data.max_frames_per_batch: found {budget}, expected null, auto or at least data.window={window} frames; "
        "choose one of them."
    )


def heaviest(assembler: BatchAssembler, plans: Iterable[Plan], texts: Iterable[str]) -> Batch:
    """The batch of the most distinct frames (then samples) among `plans`, every episode with the longest of `texts`.

    It stands for all batches, so what its frames are (`Batch.origin`) is left out: nobody ever says that of them.
    """
    plan = max(plans, key=lambda plan: (_distinct(plan, assembler.window), len(plan.rows)))
    batch = assembler[plan]
    ids, mask = assembler.table.rows(sorted(texts))
    longest = int(mask.sum(dim=1).argmax())
    episodes = len(batch.instruction_ids)
    return replace(
        batch,
        instruction_ids=ids[longest].repeat(episodes, 1),
        instruction_mask=mask[longest].repeat(episodes, 1),
        origin=None,
    )


def _distinct(plan: Plan, window: int) -> int:
    """Frames that the samples of `plan` see together."""
    seen = history(plan.steps, window)
    frame = plan.rows[:, None] * (int(plan.steps.max()) + 1) + seen
    return len(np.unique(frame[seen >= 0]))
