"""Owns how many frames are worked on at once (data.max_frames_per_batch) where the memory decides it.

In: a trainer about to train. Out: with "auto", the largest number found to fit: the heaviest batch of an epoch goes
forward and backward, whole first, then with half the frames at once, until nothing runs out of memory; run.json keeps
the number (section `training`), and a resumed run takes it from there. Policy, gradients and random numbers are
afterwards as they were. A batch that does not fit later (memory is in pieces then) is repeated with half the number.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.memory import (
    garbage_collection_cuda,
    is_cuda_out_of_memory,
    is_out_of_cpu_memory,
)

from src.core.errors import ProjectError
from src.experiment import ranks
from src.experiment.run_record import RunRecord

if TYPE_CHECKING:
    from src.data.batch import Batch
    from src.data.datamodule import EpisodeDataModule
    from src.model.policy import Policy

KEY = "max_frames_per_batch"
MARGIN = 0.1
"""Share of the memory left free while the number is sought: batches differ, and freed memory comes back in pieces."""
_ANY = -(1 << 60)  # less than what any rank asks for
_ADAM_BYTES = 8  # two float32 moments per trained weight, which the first step adds


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error)
    told = "CUBLAS_STATUS_ALLOC_FAILED" in said
    # oneDNN, which computes on CPUs, drops its status: where memory is limited, that one is what it ran into.
    told |= _limit() is not None and said in ("could not execute a primitive", "could not create a primitive")
    return told or is_cuda_out_of_memory(error) or is_out_of_cpu_memory(error)


class FrameBudget(Callback):
    """Finds the number before the first step, and halves it where it proves too large."""

    def __init__(self, record: RunRecord) -> None:
        """
        Args:
            record: of the run; keeps the number.
        """
        self.record = record

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let a batch that does not fit be repeated: the step's closure is the one place that forward and backward
        pass share and the optimizer does not, with or without accumulated batches.

        Raises:
            ProjectError: a number is to be found where processes put layers together jointly.
        """
        trainer.fit_loop.epoch_loop.automatic_optimization = _Repeating(trainer, self)
        if _data(trainer).max_frames_per_batch == "auto" and isinstance(
            trainer.strategy, ModelParallelStrategy
        ):
            raise ProjectError(
                f"data.{KEY}: found auto with trainer=fsdp, whose processes would wait for one that ran out of memory, "
                "expected a number or null; choose a number, or trainer=ddp."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the number, or take the one that the run found before.

        Raises:
            ProjectError: not even one window at a time fits.
        """
        data = _data(trainer)
        if data.max_frames_per_batch != "auto":
            return
        known = self.record.fields["training"].get(KEY)
        if known is not None:
            self._take(trainer, int(known), "frames at once, as this run found before")
            return
        policy, device = pl_module, trainer.strategy.root_device
        batch = data.on_after_batch_transfer(data.heaviest_batch().to(device), 0)
        reserve = spare_bytes(device)
        trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        # While batches are accumulated, a copy of the gradients is kept for a batch that has to be repeated.
        reserve += trained * (_ADAM_BYTES + 4 * (trainer.accumulate_grad_batches > 1))
        context = trainer.precision_plugin.train_step_context
        most, failed = find(policy, batch, context, reserve)  # type: ignore[arg-type]
        if device.type == "cuda":  # the record tells the peak of the training, not of what was tried
            torch.cuda.reset_peak_memory_stats(device)
        sentence = None
        if most is None:
            sentence = (
                f"data.{KEY}: found that not even {failed} frames at once (one data.window) fit the memory of "
                f"{device} with {MARGIN:.0%} to spare, expected so many to; use model.backbone."
                "gradient_checkpointing=true, trainer.precision=bf16-mixed, a smaller model, or a GPU with more memory."
            )
        sentence = ranks.first_sentence(sentence, device)
        if sentence is not None or most is None:
            raise ProjectError(str(sentence))
        frames = len(batch.frames)
        # The smallest of the ranks whose batch did not fit whole; of the others, the one with the most frames.
        agreed = -ranks.agreed(_ANY if failed is None else -most, device)
        told = f"frames at once: the largest batch ({frames} frames) fits whole"
        if agreed == -_ANY:
            agreed = ranks.agreed(most, device)
        else:
            told = f"frames at once: of the largest batch ({frames} frames) more do not fit the memory"
        self._take(trainer, agreed, told)

    def shrink(self, trainer: pl.Trainer, batch: Batch, reason: str) -> None:
        """Half the frames at once from now on, and for `batch`, which ran out of memory.

        Raises:
            ProjectError: the number was chosen by hand, cannot shrink, or other processes wait for this batch.
        """
        data = _data(trainer)
        found = data.max_frames or frames_at_once(trainer.lightning_module, batch)  # type: ignore[arg-type]
        half = max(data.window, -(-found // 2))
        ran_out = f"a batch of {len(batch.frames)} frames ran out of memory ({reason})"
        if data.max_frames_per_batch != "auto":
            raise ProjectError(
                f"data.{KEY}: found {data.max_frames_per_batch}, and {ran_out}; choose auto, or a number such as "
                f"{half}."
            )
        if trainer.world_size > 1 or half >= found:
            raise ProjectError(
                f"data.{KEY}: found {found} by itself, and {ran_out}; "
                + (f"start again with data.{KEY}={half}." if half < found else "use a smaller model.")
            )
        self._take(trainer, half, f"frames at once from here on, for {ran_out}; it is repeated")
        batch.max_frames = half

    def _take(self, trainer: pl.Trainer, most: int, told: str) -> None:
        _data(trainer).limit_frames(most)
        self.record.note("training", **{KEY: most})
        if trainer.is_global_zero:
            print(f"budget  {most} {told}")


def find(
    policy: Policy, batch: Batch, context: Callable[[], AbstractContextManager[Any]], reserve: int
) -> tuple[int | None, int | None]:
    """The most frames at once with which `batch` goes forward and backward; `policy` is left as it was.

    Args:
        policy: as it will train, on its device.
        batch: on the same device.
        context: what a training step runs in (autocast).
        reserve: bytes that are to stay free meanwhile.

    Returns:
        The number, None where none fits; and the smallest number that did not fit, None where the first one did.
    """
    failed = None
    with untouched(policy):
        for most in halves(frames_at_once(policy, batch), policy.window):
            batch.max_frames = most
            if _fits(policy, batch, context, reserve):
                return max(most, policy.window), failed
            failed = most
    return None, failed


def frames_at_once(policy: Policy, batch: Batch) -> int:
    """How many frames go through the model together where nothing limits them."""
    return max(0 if policy.history.per_frame else batch.windows.numel(), len(batch.frames))


def halves(whole: int, least: int) -> Iterator[int]:
    """`whole`, its half, … and `least` at last."""
    yield whole
    while whole > least:
        whole = max(least, -(-whole // 2))
        yield whole


def spare_bytes(device: torch.device) -> int:
    """Memory to leave free: a share of the GPU's, on a CPU of what the process may have (ulimit -v), if that is set."""
    if device.type == "cuda":
        return int(MARGIN * torch.cuda.mem_get_info(device)[1])
    limit = _limit()
    return 0 if limit is None else int(MARGIN * limit)


def _limit() -> int | None:
    """Bytes that this process may have (ulimit -v); None where none are said."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


@contextmanager
def untouched(policy: torch.nn.Module) -> Iterator[None]:
    """Whatever happens inside, buffers, gradients and random numbers are afterwards as before."""
    buffers = [(buffer, buffer.clone()) for buffer in policy.buffers()]
    gradients = [(p, p.grad) for p in policy.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    numbers, python = np.random.get_state(), random.getstate()
    gpus = {p.device for p, _ in gradients if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        np.random.set_state(numbers)
        random.setstate(python)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _fits(
    policy: Policy, batch: Batch, context: Callable[[], AbstractContextManager[Any]], reserve: int
) -> bool:
    try:
        _once(policy, batch, context, reserve)
        fits = True
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        fits = False
    # Here the error is gone, and with it the frames of its traceback and all activations that they held.
    for parameter in policy.parameters():
        parameter.grad = None
    garbage_collection_cuda()  # collects on a CPU, too
    return fits


def _once(
    policy: Policy, batch: Batch, context: Callable[[], AbstractContextManager[Any]], reserve: int
) -> None:
    held = torch.empty(reserve, dtype=torch.uint8, device=batch.frames.device)
    with context():
        loss = policy.compute_loss(batch)[0]["loss"]
    loss.backward()
    del held


def _data(trainer: pl.Trainer) -> EpisodeDataModule:
    data: EpisodeDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data


class _Repeating(_AutomaticOptimization):
    """Lightning's automatic optimization, with a closure that repeats a batch that ran out of memory."""

    def __init__(self, trainer: pl.Trainer, budget: FrameBudget) -> None:
        super().__init__(trainer)
        self.budget = budget

    def _make_closure(self, kwargs: Any, optimizer: torch.optim.Optimizer, batch_idx: int) -> Closure:
        plain = super()._make_closure(kwargs, optimizer, batch_idx)
        return _Repeated(plain, self.trainer, self.budget, kwargs["batch"])


class _Repeated(Closure):
    """Forward and backward pass of one batch, again with half the frames at once where memory runs out."""

    def __init__(self, plain: Closure, trainer: pl.Trainer, budget: FrameBudget, batch: Batch) -> None:
        super().__init__(plain._step_fn, plain._backward_fn, plain._zero_grad_fn)
        self.trainer, self.budget, self.batch = trainer, budget, batch

    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        module = self.trainer.lightning_module
        repeats = _data(self.trainer).max_frames_per_batch == "auto" and self.trainer.world_size == 1
        # Gradients of the batches accumulated so far; those of a first batch are cleared by the closure itself.
        kept = self._zero_grad_fn is None and repeats
        gradients = [
            (p, p.grad.clone() if kept and p.grad is not None else None) for p in module.parameters()
        ]
        device = self.trainer.strategy.root_device
        numbers = _numbers(device) if repeats else None
        hook = module._current_fx_name
        while True:
            try:
                return super().closure(*args, **kwargs)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else "MemoryError"
            for parameter, gradient in gradients:
                parameter.grad = None if gradient is None else gradient.clone()
            garbage_collection_cuda()
            self.budget.shrink(self.trainer, self.batch, reason)
            module._current_fx_name = hook  # Lightning leaves it at the hook that failed
            if numbers is not None:  # the same dropout as in a run that began with this number
                torch.set_rng_state(numbers[0])
                if numbers[1] is not None:
                    torch.cuda.set_rng_state(numbers[1], device)


def _numbers(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """States of the generators that a step draws from: the CPU's, and that of `device` if it is a GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
