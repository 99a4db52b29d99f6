"""A search on a journal in a temporary folder, and the light program as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from src.sweep import samplers
from src.sweep.objective import Objective
from src.sweep.space import read_space
from src.sweep.storage import place_of
from src.sweep.study import Search

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Search]:
    """`make(n_trials=…, space=[…], sampler=…)`: a search for `loss` over k in 0 … 5 and x in [0, 1]."""

    def made(
        n_trials: int = 4,
        space: tuple[str, ...] = ("k=range(0,6)", "x=interval(0,1)"),
        sampler: Callable[..., Any] = samplers.random,
        objectives: tuple[Objective, ...] = (Objective("loss", "minimize"),),
        definition: dict[str, Any] | None = None,
        **keys: Any,
    ) -> Search:
        return Search(
            name="s",
            place=place_of(None, tmp_path),
            folder=tmp_path,
            space=read_space({}, list(space)),
            objectives=objectives,
            n_trials=n_trials,
            make_sampler=lambda asked: sampler(asked, seed=0, **keys),
            pruner=optuna.pruners.NopPruner(),
            definition=definition or {},
        )

    return made


def command(folder: Path, *overrides: str) -> list[str]:
    """The light program, searching x and k in `folder`."""
    space = ["x=interval(-1,1)", "k=choice(1,2,3,4)"]
    return [sys.executable, "-m", "tests.sweep.task", "-m", f"hydra.sweep.dir={folder}", *space, *overrides]


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folder, *overrides), cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], timeout_s: float = 120) -> str:
    """What it printed; it must have ended well."""
    out, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, out
    return out


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """kill -9 as soon as `condition` holds."""
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
