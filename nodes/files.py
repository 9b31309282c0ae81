"""Files that are written as a whole or not at all, and what is remembered of files that were read."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_clear: list[Callable[[], None]] = []
_commands = 0


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` at the end, if ``durable`` once it is on the disk.

    After an error ``path`` is kept.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def cached_reading(function: Function) -> Function:
    """``functools.cache`` for functions that read files, until ``read_anew``."""
    kept = functools.cache(function)
    _clear.append(kept.cache_clear)
    return kept  # type: ignore[return-value]  # called as the function is


def read_anew() -> None:
    """Forget what cached functions have read: a command begins, and files may have changed since the last one."""
    global _commands  # noqa: PLW0603  (one process runs one command at a time)
    _commands += 1
    for clear in _clear:
        clear()


def commands() -> int:
    """The number of commands begun so far."""
    return _commands
