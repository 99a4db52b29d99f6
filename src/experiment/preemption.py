"""Owns what a training run does when a cluster announces that it takes the machine back (SIGUSR1 or SIGUSR2).

In: the signal, minutes before the end: `#SBATCH --signal=USR1@120`, or SIGUSR2 from submitit. Out: the optimizer step
at hand is finished, checkpoints/last.ckpt written, the record says `interrupted`; then the signal goes on to whoever
waited for it before the run (submitit, which puts the job back into the queue). Where nobody did, the process ends with
128 + its number, and a batch script requeues on that code.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from src.experiment.signals import Interrupted, StopRequest

SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def heeded(stop: StopRequest) -> Iterator[None]:
    """While open, the cluster's signals ask `stop` to end the training after this step."""

    def ask(signum: int, _: FrameType | None) -> None:
        if stop.requested is None:
            stop.requested = signum
            name = signal.Signals(signum).name
            print(f"\n{name}: stopping after this step, to go on later.", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread alone
        return
    previous = {signum: signal.signal(signum, ask) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def hand_on(error: BaseException | None) -> None:
    """Where a cluster's signal ended the run, let the handler have it that was there before the run."""
    if not isinstance(error, Interrupted) or error.signum not in SIGNALS:
        return
    handler = signal.getsignal(error.signum)
    if callable(handler):
        handler(error.signum, None)
