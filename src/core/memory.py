"""Owns what this process keeps of freed memory: the blocks of the last step, and nothing of the last run.

glibc returns every large freed block to the kernel; a CPU training step then spends 10 to 20 % of its time on page
faults (measured for the tiny model's text step, see docs/lab-notes.md). Elsewhere than on glibc this does nothing.
"""

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # bytes; glibc refuses more


def keep_freed_memory() -> bool:
    """Tune this process's allocator; returns whether it is one that can be."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    )


def forget_earlier_runs() -> None:
    """Free what an earlier run of this process left behind, and give it back to the system.

    Trainer, policy and data refer to each other in a circle, so they stay until Python happens to look for circles:
    0.4 GB of frames per arm in a sweep of the tiny default, and a peak of memory that was not this run's (measured).
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
