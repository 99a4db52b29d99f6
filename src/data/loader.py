"""Owns the loader that can stop after any batch and go on from there, with the same batches in the same order.

In: a `BatchAssembler` and a `PlanSampler`. Out: batches, and a state of two numbers (epoch, batches) that Lightning
stores in its checkpoints by itself, because the loader has `state_dict` and `load_state_dict`.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from src.core.errors import ProjectError
from src.data.batch import Batch
from src.data.sampler import PlanSampler


class ResumableLoader:
    """Iterates batches; counts those handed out, not those that workers have prepared ahead.

    It holds a DataLoader but is none: Lightning rebuilds DataLoaders with samplers of its own (`overfit_batches`,
    distributed runs), which know nothing of plans. The plans are shared out among processes by `PlanSampler`.

    Args:
        assembler: turns a plan into a batch.
        plans: the plans of an epoch.
        num_workers: processes that assemble batches.
        pin_memory: put batches into page-locked memory.
        progress: (epoch, batches of it that are finished) as the trainer counts, or None while nobody trains. With
            it, a batch that was being worked on when training broke off is given out again after resuming.
    """

    def __init__(
        self,
        assembler: Dataset[Batch],
        plans: PlanSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        progress: Callable[[], tuple[int, int] | None] | None = None,
    ) -> None:
        self.assembler = assembler
        self.plans = plans
        self.progress = progress
        self._loader = DataLoader(
            assembler,
            batch_size=None,  # a plan is already a whole batch
            sampler=plans,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=pin_memory,
            persistent_workers=num_workers > 0,
        )
        self.waited_s = 0.0
        """Seconds that whoever iterates has waited for batches, since the loader was made."""
        self._epoch = 0
        self._given = 0
        self._resume: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.plans)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; under a trainer its own count decides."""
        self.plans.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the epoch, from the loaded position on."""
        # A generator: nothing runs until the first batch is asked for, by when the trainer is in the right epoch.
        progress = self._progress()
        if progress is not None:
            self.plans.set_epoch(progress[0])
        epoch, start = self.plans.epoch, 0
        if self._resume is not None:
            stored_epoch, stored_batches = self._resume
            self._resume = None
            # An epoch that ended (or was cut short by limit_train_batches) is not gone into again.
            if stored_epoch == epoch and stored_batches < len(self):
                start = stored_batches
        self._epoch, self._given = epoch, start
        self.plans.start = start
        batches = iter(self._loader)
        while True:
            began = time.perf_counter()
            batch = _next(batches)
            self.waited_s += time.perf_counter() - began
            if batch is None:
                return
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and how many of its batches are done."""
        if self._resume is not None:  # loaded and not yet used
            return {"epoch": self._resume[0], "batches": self._resume[1]}
        progress = self._progress()
        done = self._given if progress is None else min(self._given, progress[1])
        return {"epoch": self._epoch, "batches": done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration starts where `state` says, if it is of that epoch."""
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if epoch < 0 or not 0 <= batches <= len(self):
            raise ProjectError(
                f"the checkpoint stopped at batch {batches} of epoch {epoch}, but an epoch has {len(self)} batches "
                "now; resume with the data and the data.sampler of the original run."
            )
        self._resume = (epoch, batches)
        self.plans.set_epoch(epoch)

    def _progress(self) -> tuple[int, int] | None:
        return None if self.progress is None else self.progress()


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, or None after the last. Of a worker's traceback only the sentence at its end is passed on."""
    try:
        return next(batches, None)
    except ProjectError as error:
        raise ProjectError(str(error).rsplit("ProjectError: ", 1)[-1].strip()) from error


def _as_it_is(batch: Any) -> Any:
    return batch
