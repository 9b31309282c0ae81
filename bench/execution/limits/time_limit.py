"""Time limit of a case: how long it may take, and the interrupt that ends it within its process.

A case that code in C keeps from being interrupted is ended from outside: by the worker pool, or by the process that
watches over ``bench run`` (``bench.execution.limits.supervisor``).
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LONGEST_TICK_S = 5.0  # between two looks at the clock
AGAIN_S = 10.0  # between two interrupts: the first may come where Python drops exceptions, as in a finalizer
LEAST_GRACE_S, MOST_GRACE_S = 5.0, 30.0  # from the interrupt to the end of the process, for nodes to be ended


class CaseTimeoutError(KeyboardInterrupt):
    """A case exceeded its time limit. It interrupts as Ctrl-C does, so event loops and finalizers take it as such."""


class Stopwatch:
    """Time that passed while this process ran: of a standstill, as by Ctrl-Z, at most two ticks count."""

    def __init__(self, now: float, tick_s: float) -> None:
        self.tick_s = tick_s
        self._last, self._passed_s = now, 0.0

    def passed_s(self, now: float) -> float:
        """Seconds so far; to be read once a tick at least."""
        self._passed_s += min(now - self._last, 2 * self.tick_s)
        self._last = now
        return self._passed_s


def tick_s(limit_s: float) -> float:
    """Seconds between two looks at a stopwatch that is to end at ``limit_s``."""
    return min(LONGEST_TICK_S, limit_s / 4)


def grace_s(limit_s: float) -> float:
    """Seconds that an interrupted case has to end by itself."""
    return min(MOST_GRACE_S, max(LEAST_GRACE_S, limit_s))


def exceeded(limit_s: float) -> str:
    """What is told of a case that exceeded its limit."""
    return f"exceeded its time limit of {limit_s:g} s (timeout_s)"


@contextmanager
def limited(limit_s: float | None) -> Iterator[None]:
    """Raise CaseTimeoutError in the block once it has taken ``limit_s``; only in the main thread, None: never."""
    if limit_s is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise CaseTimeoutError(exceeded(limit_s))

    over, before = threading.Event(), signal.signal(signal.SIGALRM, interrupt)
    watching = threading.Thread(target=_interrupt_at, args=(limit_s, threading.get_ident(), over), daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        signal.signal(signal.SIGALRM, before)


def _interrupt_at(limit_s: float, thread: int, over: threading.Event) -> None:
    watch = Stopwatch(time.monotonic(), tick_s(limit_s))
    left_s = limit_s
    while not over.wait(min(watch.tick_s, max(left_s, 0.0))):
        left_s = limit_s - watch.passed_s(time.monotonic())
        if left_s <= 0:
            break
    while not over.is_set():
        signal.pthread_kill(thread, signal.SIGALRM)  # also ends a wait in a system call
        over.wait(AGAIN_S)
