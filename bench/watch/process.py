"""The server of a run's page as a child process of the runner, so that it takes no time of what is measured there."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import events
from bench.child_process import Child, EndedError


class WatchError(Exception):
    """The page cannot be served; the text says why."""


@contextmanager
def watching(folder: Path, port: int) -> Iterator[str]:
    """Keep the events of the run in ``folder`` and serve its page; yields its address. Raises WatchError."""
    child = Child("bench.watch.server")
    try:
        child.send(folder=os.fspath(folder.resolve()), port=port)
        said: list[dict[str, str]] = []
        try:
            while not said:
                said = child.events()
        except EndedError as end:
            raise WatchError(f"the server {end}") from None
        if "error" in said[0]:
            raise WatchError(f"port {port}: {said[0]['error']}")
        handler = LogEvents()
        logging.getLogger().addHandler(handler)
        try:
            with events.to(events.EventFile(folder)):
                yield said[0]["address"]
        finally:
            logging.getLogger().removeHandler(handler)
    finally:
        child.close()


class LogEvents(logging.Handler):
    """Lines of the run's log as events."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        events.emit("log", level=record.levelname.lower(), text=record.getMessage()[:500])
