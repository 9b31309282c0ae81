"""Lock of a run's folder: held by the process that runs in it, and released by the kernel however that ends."""

import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bench.execution.limits.supervisor import started_process
from bench.suite.document import InputError

NAME = ".lock"
ATTEMPTS, ATTEMPT_S = 12, 0.04  # a run that was just killed takes a moment to end

logger = logging.getLogger(__name__)

_held: set[BinaryIO] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``. Raises InputError if another run holds it, and OSError if it cannot be made."""
    with (folder / NAME).open("a+b", buffering=0) as file:
        try:
            if not _locks(file):
                raise InputError([f"--out: {in_use(folder) or f'{folder}: another run has just ended here'}"])
        except OSError as error:  # as on some network file systems
            logger.warning("%s cannot be locked: %s; start no other run in it", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {started_process()} on {platform.node()}".encode(errors="replace"))
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


def _locks(file: BinaryIO, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock ``file``, unless a run holds it; a command that only looks does so for a moment."""
    for _ in range(ATTEMPTS):
        with suppress(BlockingIOError):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        time.sleep(ATTEMPT_S)
    return False


def in_use(folder: Path) -> str | None:
    """Which run holds the lock of ``folder``, as a sentence; None if none does."""
    with suppress(OSError), (folder / NAME).open("rb") as file:
        if not _locks(file, fcntl.LOCK_SH):
            holder = file.read().decode(errors="replace")
            return f"{folder}: a run is in progress here ({holder or 'just begun'}); wait for its end"
    return None


def _let_go() -> None:
    """Close the locks in a process that users' code has forked, which may outlive this one."""
    for file in _held:
        file.close()


os.register_at_fork(after_in_child=_let_go)
