"""Threads and sockets in other network namespaces, by setns."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

CLONE_NEWNET = 0x40000000  # of <sched.h>

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    """Move this thread into the namespace at ``path`` permanently. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(fd)
    finally:
        os.close(fd)


@contextmanager
def in_namespace(path: str | None) -> Iterator[None]:
    """Run the block in the namespace at ``path``; None changes nothing. Raises OSError.

    A socket belongs permanently to the namespace in which it was created. The block must not await: other tasks of the
    thread would run in the namespace too.
    """
    if path is None:
        yield
        return
    original = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(path)
        try:
            yield
        finally:
            _enter(original)
    finally:
        os.close(original)


def listen_in(path: str | None) -> socket.socket:
    """A socket that listens on all interfaces of the namespace at ``path``; None: on this namespace's loopback."""
    with in_namespace(path):
        return socket.create_server(("127.0.0.1" if path is None else "0.0.0.0", 0))


def connect_from(address: tuple[str, int], path: str | None) -> socket.socket:
    with in_namespace(path):
        return socket.create_connection(address)


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"cannot enter a network namespace: {os.strerror(code)}")
