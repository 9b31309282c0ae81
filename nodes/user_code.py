"""Calls of users' code, which may try to end the process: that is an error of theirs, with its file and line."""

import dis
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from nodes.user_modules import PROJECT

RAISE = dis.opmap["RAISE_VARARGS"]


class UserExitError(RuntimeError):
    """User code raised SystemExit or KeyboardInterrupt."""


@contextmanager
def contained() -> Iterator[None]:
    """Call user code, or decorate a function that does. Raises UserExitError where that code would end the process.

    A KeyboardInterrupt of a signal passes: it comes between any two instructions, not from a ``raise`` of user code.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as stop:
        last, own = _last_steps(stop.__traceback__)
        if isinstance(stop, KeyboardInterrupt) and (own is None or own is not last or not _raises(own)):
            raise
        where = f"{own.tb_frame.f_code.co_filename}:{own.tb_lineno}: " if own else ""
        said = f"SystemExit({stop.code!r})" if isinstance(stop, SystemExit) else "KeyboardInterrupt"
        raise UserExitError(f"{where}the code raised {said}, which would end the process; raise an error") from stop


def _last_steps(step: TracebackType | None) -> tuple[TracebackType | None, TracebackType | None]:
    """The last step of a traceback, and the last one in code that is neither the project's nor Python's own."""
    last = own = None
    while step is not None:
        last = step
        if str(step.tb_frame.f_globals.get("__name__")).partition(".")[0] not in {*PROJECT, *sys.stdlib_module_names}:
            own = step
        step = step.tb_next
    return last, own


def _raises(step: TracebackType) -> bool:
    return step.tb_frame.f_code.co_code[step.tb_lasti] == RAISE
