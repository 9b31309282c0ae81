"""Freed tensors' memory is used again, without page faults."""

import os
import subprocess
import sys

FAULTS = """
import resource, torch
from nodes.runtime.allocator import keep_freed_memory
kept = keep_freed_memory()
for _ in range(20):
    torch.empty(1 << 26, dtype=torch.uint8).fill_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.empty(1 << 26, dtype=torch.uint8).fill_(1)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def another_tensor() -> tuple[int, int]:
    """Whether malloc was set, and the page faults of another tensor of 64 MiB (16384 pages)."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FAULTS]
    kept, count = subprocess.run(command, capture_output=True, check=True, env=environment).stdout.split()
    return int(kept), int(count)


def test_tensors_cost_no_page_faults_once_freed_memory_is_kept() -> None:
    kept, count = another_tensor()
    assert not kept or count < 500  # where malloc is not glibc's, nothing is promised
