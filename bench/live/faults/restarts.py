"""Restarts of live runs in which a process has died: how many a case may have, and those that it had."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

from bench import events
from bench.live.processes import LostError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Restarts:
    """Restarts of one case, ``most`` at most; ``folder`` is for what nodes keep meanwhile."""

    def __init__(self, most: int, folder: Path) -> None:
        self.lines: list[str] = []  # one for each restart
        self._most, self._folder, self._runs = most, folder, 0

    @property
    def left(self) -> int:
        """Restarts that there may still be."""
        return self._most - len(self.lines)

    @contextmanager
    def kept(self) -> Iterator[Path | None]:
        """A folder for what the nodes of one run keep, removed at its end; None where no restart is left."""
        if not self.left:
            yield None
            return
        self._runs += 1
        folder = self._folder.resolve() / f"restart-{self._runs}"  # nodes may run in another folder
        shutil.rmtree(folder, ignore_errors=True)  # of a case that was interrupted
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def run(self, attempt: Callable[[], T], goes_on: Callable[[], str]) -> T:
        """The result of ``attempt``, made again for each process that dies in it; ``goes_on`` says from where.

        Raises LostError if no restart is left.
        """
        while True:
            try:
                return attempt()
            except LostError as error:
                if not self.left:
                    raise
                number = len(self.lines) + 1
                line = f"{error}; the nodes start again {goes_on()} (restart {number} of at most {self._most})"
                self.lines.append(line)
                logger.warning("%s", line)
                events.emit("restart", text=line)


_in_use: ContextVar[Restarts | None] = ContextVar("restarts", default=None)


def restarts_in_use() -> Restarts:
    """The restarts that the case of this thread may have; none outside of a case."""
    return _in_use.get() or Restarts(0, Path())


@contextmanager
def restarting(most: int, folder: Path) -> Iterator[Restarts]:
    """Let live runs of the block start again, ``most`` times together."""
    restarts = Restarts(most, folder)
    before = _in_use.set(restarts)
    try:
        yield restarts
    finally:
        _in_use.reset(before)
