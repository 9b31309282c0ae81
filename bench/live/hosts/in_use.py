"""The hosts that live runs of this thread use, where a case of ``bench run --hosts`` runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bench.live.hosts.document import Hosts

_in_use: ContextVar[Hosts | None] = ContextVar("hosts", default=None)


def hosts_in_use() -> Hosts | None:
    """The hosts that a live run starts its nodes on; None: this machine."""
    return _in_use.get()


@contextmanager
def on_hosts(hosts: Hosts | None) -> Iterator[None]:
    """Let live runs of the block use ``hosts``."""
    before = _in_use.set(hosts)
    try:
        yield
    finally:
        _in_use.reset(before)
