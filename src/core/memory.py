"""Keeps memory that a training step frees, so that the next step need not fault it in again.

glibc returns every large freed block to the kernel; a CPU training step then spends 10 to 20 % of its time on page
faults (measured for the tiny model's text step, see docs/lab-notes.md). Elsewhere than on glibc this does nothing.
"""

import ctypes

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
