"""Owns how fast the data come: batches of the real loader, with nobody computing on them.

In: an arm of the workshop. Out: frames and windows per second.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from itertools import islice
from typing import Any

from src.speed.stopwatch import Spread
from src.speed.training import Arm


def measure(arm: Arm, rounds: int, steps: int) -> dict[str, Any]:
    """Section `pipeline` of the result: `rounds` times `steps` batches, after one that fills the memory."""
    arm.datamodule.sampler = arm.sampler
    arm.datamodule.trainer = None
    loader = arm.datamodule.train_dataloader()
    frames, windows = [], []
    for number in range(rounds + 1):
        began = time.perf_counter()
        batches = list(islice(loader, steps))
        took = time.perf_counter() - began
        if number > 0:
            frames.append(sum(len(batch.frames) for batch in batches) / took)
            windows.append(sum(batch.size for batch in batches) / took)
    return {
        "frames_per_s": asdict(Spread.of(frames)),
        "windows_per_s": asdict(Spread.of(windows)),
        "batches": steps,
        "workers": arm.datamodule.num_workers,
    }
