"""What becomes of a large tensor's memory when it is freed? It stays with the process, for the next one."""

import ctypes
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """Let malloc reuse the memory of freed tensors; call it when a process starts. False without glibc.

    By default glibc hands tensors of 32 MiB and more, and the end of the heap, back to the kernel. Each
    tensor received then costs a page fault for every 4 KiB, more than to read its bytes from the socket.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = [mallopt(setting, KEPT_BYTES) == 1 for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)]
    return all(kept)


def resident_bytes() -> int:
    """This process's proportional set size: pages shared by n processes count as an n-th. 0 where it is not told."""
    path = Path("/proc/self/smaps_rollup")
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
