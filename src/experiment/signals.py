"""Owns what Ctrl-C and SIGTERM do to a run: finish the optimizer step, leave a checkpoint, exit with 130 or 143.

In: signals, or a study that gives a run up. Out: `StopRequest.requested`, which the training loop asks after every
step; `Interrupted`, a SystemExit that carries the conventional exit code (Lightning alone would exit 0 after SIGTERM,
so that a scheduler took a stopped job for a finished one); `Pruned`, which is no error.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(SystemExit):
    """The run was stopped from outside; the process exits with 128 + the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Pruned(Exception):
    """A study has seen enough of this run; it ends early and that is no error."""

    figures = {"pruned": 1.0}
    """What the run returns to the sweep instead of the figures of a report."""


class StopRequest:
    """Signal handling of one run, as a context manager.

    Outside `deferred()` a signal raises `Interrupted` at once. Inside, the first one only sets `requested`,
    because a half-finished optimizer step must not reach a checkpoint; the second one raises.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._previous = {signum: signal.getsignal(signum) for signum in self.SIGNALS}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in self._previous.items():
                signal.signal(signum, handler)

    def install(self) -> None:
        """Take the signals (again: Lightning's fit puts its own handlers in front)."""
        if threading.current_thread() is threading.main_thread():
            for signum in self.SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """While open, a first signal waits for the training loop to ask; at the end it is obeyed in any case."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.requested is not None:
            raise Interrupted(self.requested)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if not self._deferring or self.requested is not None:
            raise Interrupted(signum)
        self.requested = signum
        name = signal.Signals(signum).name
        print(f"\n{name}: stopping after this step; once more stops at once.", file=sys.stderr, flush=True)
