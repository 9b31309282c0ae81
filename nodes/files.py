"""Files that are written as a whole or not at all, and what is remembered of files that were read."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
_clear: list[Callable[[], None]] = []
_commands = 0


@contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` at the end, if ``durable`` once it is on the disk.

    After an error ``path`` is kept. Raises OSError with its name, as where the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    with _naming(path, partial):
        try:
            with partial.open("wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):  # on a disk that is read-only now
                partial.unlink(missing_ok=True)
            raise


def append(path: Path, data: bytes) -> None:
    """Append ``data`` to ``path``; it is on the disk afterwards. Raises OSError with its name."""
    with _naming(path), path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Let an error of writing name ``path``: a full disk names none, and torch raises an error of its own after it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError) or cause.errno is None or cause.filename not in (None, str(partial)):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


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
