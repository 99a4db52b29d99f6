"""A second run of a process begins without the first one's memory."""

import gc
import weakref

from src.core.memory import forget_earlier_runs


class Run:
    """Refers to itself, as a trainer and its policy refer to each other."""

    def __init__(self) -> None:
        self.trainer = self


def test_circles_of_an_earlier_run_are_freed() -> None:
    gc.disable()
    try:
        run = Run()
        left = weakref.ref(run)
        del run
        assert left() is not None
        forget_earlier_runs()
        assert left() is None
    finally:
        gc.enable()
