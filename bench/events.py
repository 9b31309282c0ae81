"""Events of a run, for those who watch it: emitted wherever something happens, and dropped unless they are asked for.

A run that is watched appends them to ``events.jsonl`` in its folder: one object a line, with ``kind``, ``at`` (Unix
time in seconds) and, of a case, its key ``case``. ``bench.watch`` shows them. They hold what ``run.log`` may hold, and
no token.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "events.jsonl"
MOST_BYTES = 32 << 20  # of the file; a run that goes on is no longer kept from there on

Event = dict[str, Any]
Sink = Callable[[Event], None]

_sink: Sink | None = None


def emit(kind: str, **fields: Any) -> None:
    """Send an event to whoever watches; free of cost if nobody does."""
    if _sink is not None:
        _sink({"kind": kind, "at": round(time.time(), 4), **fields})


def forward(event: Event) -> None:
    """Send an event of another process on."""
    if _sink is not None:
        _sink(event)


def watched() -> bool:
    """Whether events go anywhere."""
    return _sink is not None


@contextmanager
def to(sink: Sink | None) -> Iterator[None]:
    """Send the events of this process to ``sink``; None drops them."""
    global _sink  # noqa: PLW0603  (one per process)
    before, _sink = _sink, sink
    try:
        yield
    finally:
        _sink = before


@contextmanager
def of_case(key: str) -> Iterator[None]:
    """Let events have the key of the case that runs."""
    sink = _sink
    with to(None if sink is None else lambda event: sink({**event, "case": key})):
        yield


class EventFile:
    """The file of events in the folder of a run: appended to, bounded, and given up at the first error."""

    def __init__(self, folder: Path) -> None:
        self._path, self._full = folder / FILE, False
        self._bytes = self._path.stat().st_size if self._path.exists() else 0

    def __call__(self, event: Event) -> None:
        if self._full:
            return
        line = json.dumps(_finite(event), allow_nan=False).encode() + b"\n"
        self._full = self._bytes + len(line) > MOST_BYTES
        if self._full:
            line = json.dumps({"kind": "full", "at": event["at"]}).encode() + b"\n"
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError:  # a full disk; the run is worth more
            self._full = True
        self._bytes += len(line)


def _finite(value: Any) -> Any:
    """``value`` with null for numbers that JSON does not have, as of a training that diverged."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
