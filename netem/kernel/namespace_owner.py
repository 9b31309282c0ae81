"""Which network namespaces are ours, and which of them did a dead process leave?

A namespace's name tells its owner: process id and start time, which no other process of this boot shares. So
what the dead left can be told from everything else, and everything else is never touched.
"""

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from pyroute2 import netns

FOLDER = Path("/run/netns")  # where ``ip netns`` looks
NAME = re.compile(r"splitmec-(?P<pid>\d+)-(?P<started>\d+)-\d+-.+")

_counter = itertools.count()


def create(label: str) -> str:
    """Make a network namespace of this process, with ``label`` at the end of its name; its path. Raises OSError."""
    label = re.sub(r"[^\w.-]", "_", label)[:100]
    name = f"splitmec-{os.getpid()}-{_started(os.getpid())}-{next(_counter)}-{label}"
    path = str(FOLDER / name)
    try:
        netns.create(name)
    except BaseException:  # with its mount point made, perhaps
        remove(path)
        raise
    return path


def remove(path: str) -> None:
    """Take a namespace's name off it; the kernel ends it, with all that is in it, when no process is in it."""
    with suppress(FileNotFoundError):
        netns.remove(Path(path).name)


def orphaned() -> list[str]:
    """The paths of namespaces whose owner is dead."""
    names = sorted(os.listdir(FOLDER)) if FOLDER.is_dir() else []
    found = [(name, NAME.fullmatch(name)) for name in names]
    return [str(FOLDER / name) for name, match in found if match and not _alive(match["pid"], match["started"])]


def remove_orphaned() -> list[str]:
    """Remove what dead owners left; the names."""
    removed = orphaned()
    for path in removed:
        remove(path)
    return [Path(path).name for path in removed]


def _alive(pid: str, started: str) -> bool:
    return _started(int(pid)) == started


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks since boot; None if it is gone or but waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # its name may hold anything
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
