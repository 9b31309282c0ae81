"""Creation and removal of this project's network namespaces, including those of dead processes.

A namespace's name contains its owner's process id and start time, which are unique within a boot, and the owner's PID
namespace: only within that can anyone see whether the owner lives. Only namespaces with such a name, of this PID
namespace and with a dead owner count as orphaned; all others are left alone.
"""

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from pyroute2 import netns

FOLDER = Path("/run/netns")  # that of ``ip netns``
NAME = re.compile(r"splitmec-(?P<pid>\d+)-(?P<started>\d+)-(?P<seen_by>\d+)-\d+-.+")

_counter = itertools.count()


def create(label: str) -> str:
    """Create a network namespace, with ``label`` at the end of its name; return its path. Raises OSError."""
    label = re.sub(r"[^\w.-]", "_", label)[:100]
    owner = f"{os.getpid()}-{_start_ticks(os.getpid())}-{pid_namespace()}"
    name = f"splitmec-{owner}-{next(_counter)}-{label}"
    path = str(FOLDER / name)
    try:
        netns.create(name)
    except BaseException:  # its mount point may exist already
        remove(path)
        raise
    return path


def remove(path: str) -> None:
    """Remove a namespace's name; the kernel destroys the namespace when the last process has left it."""
    with suppress(FileNotFoundError):
        netns.remove(Path(path).name)


def orphaned() -> list[str]:
    names = sorted(os.listdir(FOLDER)) if FOLDER.is_dir() else []
    ours = [match for name in names if (match := NAME.fullmatch(name)) and int(match["seen_by"]) == pid_namespace()]
    return [str(FOLDER / match[0]) for match in ours if _start_ticks(int(match["pid"])) != match["started"]]


def pid_namespace() -> int:
    """The number of the PID namespace of this process."""
    return os.stat("/proc/self/ns/pid").st_ino


def remove_orphaned() -> list[str]:
    """Remove the namespaces with a dead owner; return their names."""
    removed = orphaned()
    for path in removed:
        remove(path)
    return [Path(path).name for path in removed]


def _start_ticks(pid: int) -> str | None:
    """Start time of a process, in kernel ticks since boot; None if it is gone or a zombie."""
    try:
        # The name, in parentheses, may contain spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
