"""Owns how the peak memory of a training step grows with the batch.

In: the workshop, numbers of episodes per batch. Out: highest memory in GB for each, or that it did not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from src.speed.training import Workshop, device_of, fit, told_when_full, work
from src.speed.ways import WAYS


def measure(shop: Workshop, ways: Sequence[str], episodes: Sequence[int]) -> list[dict[str, Any]]:
    """Section `memory` of the result: one row per way and size, measured over a step after a first one."""
    rows = []
    for name in ways:
        arm = shop.arm(name, WAYS[name])
        for count in episodes:
            arm.sampler = type(arm.sampler)(episodes_per_batch=count)  # type: ignore[call-arg]
            done = work(arm, 1, 1)
            row: dict[str, Any] = {
                "way": name,
                "episodes_per_batch": count,
                "windows": done.windows,
                "distinct_frames": done.frames,
            }
            try:
                with told_when_full():
                    row["peak_memory_gb"] = fit(arm, 1, 1).peak_gb
            except MemoryError as error:
                row.update(peak_memory_gb=None, failed=str(error))
            rows.append({**row, "kind": _kind(device_of(arm.cfg).type)})
            print(f"memory   {name}, {count} episodes: {row['peak_memory_gb'] or row['failed']}", flush=True)
    return rows


def _kind(device: str) -> str:
    return "allocated on the GPU" if device == "cuda" else "resident, whole process"
