"""How does a thread work in another network namespace? By setns; what it opens there stays there."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000  # of <sched.h>

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    """Move this thread into the namespace at ``path``, for good. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
    finally:
        os.close(fd)


@contextmanager
def in_namespace(path: str | None) -> Iterator[None]:
    """Be in the namespace at ``path`` meanwhile (None: stay). Awaits nothing, for other tasks would be in it too.

    A socket belongs for ever to the namespace that it was made in. Raises OSError.
    """
    if path is None:
        yield
        return
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def listen_in(path: str | None) -> socket.socket:
    """A socket that listens in the namespace at ``path``, on all that is there; in this one on the loopback alone."""
    with in_namespace(path):
        return socket.create_server(("127.0.0.1" if path is None else "0.0.0.0", 0))


def connect_from(address: tuple[str, int], path: str | None) -> socket.socket:
    """A connection from the namespace at ``path`` to ``address``."""
    with in_namespace(path):
        return socket.create_connection(address)


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter a network namespace: {os.strerror(code)}")
