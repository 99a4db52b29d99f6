"""Owns worlds in motion: many environments that step and draw, in this process or spread over several.

In: tasks, then commands. Out: frames, poses, and outcomes. Drawing a camera frame is the cost of closed-loop evaluation
and holds the interpreter lock, so threads do not help and processes do. Where a world lives changes no figure.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from src.sim import Outcome, Renderer, Task, World


class Fleet(Protocol):
    """B environments with the same life: reset, then look and step until all are done, then outcomes."""

    worlds: list[World]  # readable only where they live in this process

    def reset(self, tasks: Sequence[Task]) -> np.ndarray:
        """Start these tasks; poses (B, 3) m, m, rad."""
        ...

    def look(self, active: np.ndarray) -> np.ndarray:
        """Camera frames (B, S, S, 3) uint8; only the active ones are drawn, the others are black."""
        ...

    def step(self, commands: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Carry out (B, A) SI commands in the active ones → poses (B, 3) and whether each is done (B,) bool."""
        ...

    def outcomes(self) -> list[Outcome]:
        """How each episode ended."""
        ...


class LocalFleet:
    """All environments in this process; `worlds` may be read by controllers that know the scene."""

    def __init__(self, image_size: int) -> None:
        self.renderer = Renderer(image_size)
        self.worlds: list[World] = []

    def reset(self, tasks: Sequence[Task]) -> np.ndarray:
        self.worlds = [World(task) for task in tasks]
        return self._poses()

    def look(self, active: np.ndarray) -> np.ndarray:
        size = self.renderer.image_size
        frames = np.zeros((len(self.worlds), size, size, 3), dtype=np.uint8)
        for i in np.flatnonzero(active):
            frames[i] = self.renderer.render(self.worlds[i])
        return frames

    def step(self, commands: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        for i in np.flatnonzero(active):
            self.worlds[i].step(commands[i])
        return self._poses(), np.array([world.done for world in self.worlds], dtype=bool)

    def outcomes(self) -> list[Outcome]:
        return [world.outcome() for world in self.worlds]

    def _poses(self) -> np.ndarray:
        return np.array([world.pose for world in self.worlds], dtype=np.float64).reshape(-1, 3)


class ProcessFleet:
    """The same over `workers` processes, environment i in process i mod workers. Use as a context manager."""

    def __init__(self, image_size: int, workers: int) -> None:
        # Forking a process that has torch threads can deadlock; a spawned one imports only the simulator.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        self.size = 0
        self.worlds: list[World] = []  # they live elsewhere
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, image_size), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def __enter__(self) -> ProcessFleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()  # the worker sees the end of its pipe and leaves
        for process in self._processes:
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()
                process.join()

    def reset(self, tasks: Sequence[Task]) -> np.ndarray:
        self.size = len(tasks)
        return self._merge(self._ask("reset", [(tasks[part],) for part in self._parts()]))

    def look(self, active: np.ndarray) -> np.ndarray:
        return self._merge(self._ask("look", [(active[part],) for part in self._parts()]))

    def step(self, commands: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answers = self._ask("step", [(commands[part], active[part]) for part in self._parts()])
        return self._merge([poses for poses, _ in answers]), self._merge([done for _, done in answers])

    def outcomes(self) -> list[Outcome]:
        merged: list[Any] = [None] * self.size
        for part, answer in zip(self._parts(), self._ask("outcomes", [()] * len(self._pipes)), strict=True):
            merged[part] = answer
        return merged

    def _parts(self) -> list[slice]:
        return [slice(worker, None, len(self._pipes)) for worker in range(len(self._pipes))]

    def _ask(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send to all first, then collect: they work at the same time."""
        try:
            for pipe, args in zip(self._pipes, arguments, strict=True):
                pipe.send((method, args))
            answers = [pipe.recv() for pipe in self._pipes]
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("a simulator process ended by itself (killed, or out of memory?)") from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _merge(self, answers: Sequence[np.ndarray]) -> np.ndarray:
        merged = np.empty((self.size, *answers[0].shape[1:]), dtype=answers[0].dtype)
        for part, answer in zip(self._parts(), answers, strict=True):
            merged[part] = answer
        return merged


def _serve(pipe: Connection, image_size: int) -> None:
    """The life of a worker: do what is asked, send the answer or the error, leave when the pipe closes."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it closes the pipe
    fleet = LocalFleet(image_size)
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = getattr(fleet, method)(*args)
        except Exception as error:
            answer = error
        try:
            pipe.send(answer)
        except OSError:
            return


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
