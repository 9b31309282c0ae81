"""Memory settings of a process: malloc keeps the memory of freed tensors for reuse."""

import ctypes
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let malloc reuse the memory of freed tensors, from the start of a process on. False without glibc.

    By default glibc returns tensors of 32 MiB and more to the kernel; page faults of the next one cost more than
    reading its bytes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = [mallopt(setting, KEPT_BYTES) == 1 for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)]
    return all(kept)


def resident_bytes() -> int:
    """Proportional set size of this process (a page shared by n counts 1/n); 0 if unknown."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
