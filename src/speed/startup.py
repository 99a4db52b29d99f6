"""Owns how long a user waits: for `--help`, for the sentence about a mistake, for the first step; a search's trials.

In: overrides of conf/train.yaml. Out: wall and CPU seconds of real processes. CPU seconds (user and system, children
included) say more where other programs use the cores.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.core.errors import ProjectError
from src.speed.stopwatch import Spread

_ROOT = Path(__file__).resolve().parents[2]
_TYPO = "trainer.max_epoch=1"  # the key is max_epochs
_HEADS = (1e-3, 2e-3, 5e-4, 3e-3, 7e-4, 1.5e-3, 4e-4, 2.5e-3)


def measure(train: Sequence[str], rounds: int, folder: Path) -> dict[str, Any]:
    """Section `start_up` of the result; the data are made and read once before, so every cache is warm."""
    figures = {
        "help": [_process(["--help"], 0) for _ in range(rounds)],
        "config_error": [_process([_TYPO], 2) for _ in range(rounds)],
    }
    result: dict[str, Any] = {
        name: {
            "wall_s": Spread.of([wall for wall, _ in took]).__dict__,
            "cpu_s": Spread.of([cpu for _, cpu in took]).__dict__,
        }
        for name, took in figures.items()
    }
    run = folder / "first-step"
    _process([*train, *SHORT, f"hydra.run.dir={run}"], 0)
    training = json.loads((run / "run.json").read_text(encoding="utf-8"))["training"]
    result["first_step"] = {"wall_s": training["first_step_s"]}
    return result


SHORT = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1", "evaluation=none",
         "logger=none")  # fmt: skip
"""A run of one step: started by a process of its own, it tells when that step was done."""


def sweep(train: Sequence[str], trials: int, folder: Path) -> dict[str, Any]:
    """Section `sweep` of the result: trials of one epoch in which only the head trains, one process, one after another.

    Raises:
        ProjectError: more trials than there are points in the grid.
    """
    if not 1 <= trials <= len(_HEADS):
        raise ProjectError(f"benchmark.trials: found {trials}, expected 1 to {len(_HEADS)}; correct it.")
    rates = ",".join(str(rate) for rate in _HEADS[:trials])
    arguments = ["-m", *train, "model/lora=head_only", f"optimizer.lr={rates}", "trainer.max_epochs=1"]
    wall, cpu = _process(
        [*arguments, "evaluation=none", "logger=none", f"hydra.sweep.dir={folder / 'sweep'}"], 0
    )
    return {"trials": trials, "trials_per_min": 60 * trials / wall, "wall_s": wall, "cpu_s": cpu}


def _process(arguments: Sequence[str], expected: int) -> tuple[float, float]:
    """Wall and CPU seconds of `python -m src.train` with these arguments.

    Raises:
        ProjectError: it ended otherwise than expected.
    """
    # This process's own command line has set it, and a user's has not.
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "src.train", *arguments],
        cwd=_ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != expected:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise ProjectError(
            f"benchmark: python -m src.train {' '.join(arguments)} ended with code {done.returncode}, expected "
            f"{expected}: {' '.join(last)}"
        )
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
