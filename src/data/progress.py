"""Owns the progress bar of work that is done once per data folder (fingerprints, resized frames).

In: things to go through and a few words. Out: the same things, one by one, with a bar on a terminal.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def track(things: Sequence[T], label: str, console: Console | None = None) -> Iterator[T]:
    """Yield `things` under a bar that says how many are done and how long the rest takes.

    The bar goes to standard error and shows on a terminal alone: a log file gets no control characters.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    hidden = not console.is_terminal or not things
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        line = bar.add_task(label, total=len(things))
        for thing in things:
            yield thing
            bar.advance(line)
