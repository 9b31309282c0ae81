"""Log handlers of the command line: standard error, and ``run.log`` in the folder of a run."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodes.errors import printable

PACKAGES = ("bench", "nodes", "netem", "reports")  # verbose is about these, not about all that they import

logger = logging.getLogger(__name__)


class TerminalHandler(logging.Handler):
    """Prints to whatever standard error is at the time: a live view replaces it while it is on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # it may be closed
            print(printable(self.format(record).rstrip()), file=sys.stderr, flush=True)


class FileHandler(logging.Handler):
    """Appends to a log file, unbuffered; gives up at the first error, as a run is worth more than its log."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("ab", buffering=0)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(f"{self.format(record).rstrip()}\n".encode(errors="backslashreplace"))
        except OSError as error:
            logging.getLogger().removeHandler(self)
            self.close()
            logger.warning("%s is no longer written: %s", self._file.name, error.strerror)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def log_handlers(verbose: bool) -> Iterator[Callable[[Path], None]]:
    """Log warnings and errors to standard error, with ``verbose`` everything.

    Yields a function that from then on logs to a file as well, with ``verbose`` in as much detail.
    """
    root = logging.getLogger()
    before, root_level = list(root.handlers), root.level
    detailed = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    detailed.converter = time.gmtime

    def add(handler: logging.Handler, formatter: logging.Formatter | None = None) -> None:
        handler.setFormatter(formatter)
        root.addHandler(handler)

    def log_to(path: Path) -> None:
        try:
            add(FileHandler(path), detailed)
        except OSError as error:
            logger.warning("%s is not written: %s", path, error.strerror)

    terminal = TerminalHandler(logging.NOTSET if verbose else logging.WARNING)
    add(terminal, detailed if verbose else None)
    root.setLevel(logging.INFO)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.NOTSET)
    logging.captureWarnings(True)
    try:
        yield log_to
    finally:
        logging.captureWarnings(False)
        root.setLevel(root_level)
        for package in PACKAGES:
            logging.getLogger(package).setLevel(logging.NOTSET)
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()
