"""Standard streams of the command line: open, of any encoding, and the answer apart from what users' code prints."""

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

from nodes.errors import printable


def mend() -> None:
    """Open streams that the caller closed, and escape text that the encoding of a stream lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(nothing, True)
            setattr(sys, name, open(nothing, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


class OutputError(Exception):
    """Standard output that cannot be written."""


def complain(*lines: str) -> None:
    """Write ``lines`` to standard error, if it can be written: the exit code says the rest."""
    try:
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def write(text: str, stream: TextIO) -> None:
    """Write ``text`` to standard output, ``stream``. Raises OutputError if it fails, unless nobody reads it."""
    try:
        print(text, end="", file=stream, flush=True)
    except BrokenPipeError:  # as in `bench list | head`
        _discard(stream)
    except OSError as error:
        _discard(stream)
        raise OutputError(f"standard output cannot be written: {error.strerror}") from None


class Output:
    """Standard output. While it is ``apart``, what users' code prints goes to standard error."""

    def __init__(self, apart: bool) -> None:
        self._stdout, self._number = sys.stdout, None
        if apart:
            _flush(sys.stdout)
            self._number = os.dup(1)
            os.dup2(2, 1)
            sys.stdout = sys.stderr

    def show(self, text: str) -> None:
        """Write the answer. Raises OutputError where it cannot be written, unless nobody reads it."""
        if self._number is not None:
            _flush(sys.stdout)
            os.dup2(self._number, 1)
        try:
            write(f"{text}\n", self._stdout)
        finally:
            if self._number is not None:
                os.dup2(2, 1)

    def close(self, for_good: bool) -> None:
        """Join the streams again unless ``for_good``: the process ends, and users' code may print until then."""
        if self._number is not None:
            _flush(sys.stdout)
            if not for_good:
                os.dup2(self._number, 1)
                sys.stdout = self._stdout
            os.close(self._number)


def _flush(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        stream.flush()


def _discard(stream: TextIO) -> None:
    """Let what ``stream`` still holds go nowhere, as it is flushed again when the process ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
