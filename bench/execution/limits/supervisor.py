"""Process that watches over ``bench run``: it kills a run whose case cannot be interrupted, and starts it again.

The run is forked from it before anything large is imported. It says which case it begins and which have failed; the
next one goes on in its folder without these. Signals to this process are passed on, its end is the end of the run, and
the run is stopped while this process is.
"""

import ctypes
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.execution.limits.stacks import Stacks, write_on_request
from bench.execution.limits.time_limit import Stopwatch, exceeded, grace_s

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
LOOK_S = 1.0  # between two looks at the clock, and at whether this process is stopped
EXIT_S = 30.0  # for a run that has ended to leave: threads of users' code may keep it
WATCHED = {signal.SIGCHLD, signal.SIGCONT, signal.SIGINT, signal.SIGTERM}


class FailedCase(NamedTuple):
    """A case that has failed; ``told`` by the process that it failed in, with its traceback."""

    key: str
    experiment: str
    title: str
    reason: str
    traceback: str = ""
    told: bool = False


@dataclass
class EarlierPart:
    """What a run that was killed had done, beside its records."""

    folder: str = ""
    failed: list[FailedCase] = field(default_factory=list)


_pipe: int | None = None  # to the process that watches over this one; None: nobody does
_earlier: EarlierPart | None = None


def earlier_part() -> EarlierPart | None:
    """What the run did before this process took it over; None if it begins here."""
    return _earlier


def started_process() -> int:
    """The process that was started as this run: the one that watches over it, or this one."""
    return os.getpid() if _pipe is None else os.getppid()


def tell(**event: Any) -> None:
    """Tell the process that watches over this one, if there is one."""
    if _pipe is not None:
        with suppress(OSError):
            os.write(_pipe, json.dumps(event).encode() + b"\n")


def supervised(work: Callable[[], int]) -> int:
    """The exit code of ``work``, which is done in processes forked from here. Returns in these as well."""
    stacks, part = Stacks(), None
    while True:
        supervisor, (reading, writing) = os.getpid(), os.pipe()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _become_run(supervisor, writing, stacks.path, part)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            done = work()
            tell(code=done)
            return done
        os.close(writing)
        run = _Run(pid, reading, stacks, part or EarlierPart())
        code, part = run.watch(), run.part
        os.close(reading)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if code is None:
            continue
        if code < 0:  # killed: so is this process
            with suppress(OSError):  # SIGKILL has no other handler
                signal.signal(-code, signal.SIG_DFL)
            os.kill(supervisor, -code)
        return code


def _become_run(supervisor: int, pipe: int, stacks: str, part: EarlierPart | None) -> None:
    global _pipe, _earlier
    _pipe, _earlier = pipe, part
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != supervisor:
        os._exit(1)  # it ended before prctl
    write_on_request(stacks)
    threading.Thread(target=_stop_with, args=(supervisor,), daemon=True).start()


def _stop_with(supervisor: int) -> None:
    """Stop this process while ``supervisor`` is stopped, which lets it go on."""
    with suppress(OSError):
        while True:
            time.sleep(LOOK_S)
            if Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                os.kill(os.getpid(), signal.SIGSTOP)


class _Run:
    """A run in process ``pid``; ``part`` is what another one would go on from."""

    def __init__(self, pid: int, pipe: int, stacks: Stacks, part: EarlierPart) -> None:
        self.part = part
        self._pid, self._pipe, self._stacks = pid, pipe, stacks
        self._case: dict[str, Any] = {}  # the present one, if it has a limit
        self._code: int | None = None  # that the run will exit with
        self._taken = Stopwatch(time.monotonic(), LOOK_S)
        self._pending = b""
        os.set_blocking(pipe, False)

    def watch(self) -> int | None:
        """Return the exit code, below 0 of a run that was killed from elsewhere; None once it has been killed here."""
        while True:
            self._pass_on(signal.sigtimedwait(WATCHED, LOOK_S))
            self._read()
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            passed_s = self._taken.passed_s(time.monotonic())
            if self._code is not None and passed_s > EXIT_S:
                self._kill()
                return self._code
            if self._case and passed_s > self._case["limit_s"] + grace_s(self._case["limit_s"]):
                self._give_up()
                return None

    def _pass_on(self, sent: signal.struct_siginfo | None) -> None:
        """Pass on a signal of another process; those of the terminal reach the run as well."""
        if sent is None or sent.si_signo == signal.SIGCHLD:
            return
        if sent.si_signo not in (signal.SIGINT, signal.SIGTERM):
            os.kill(self._pid, signal.SIGCONT)  # this process was stopped; SIGCONT may come without its number
        elif sent.si_code <= 0:
            os.kill(self._pid, sent.si_signo)

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 1 << 16):
                self._pending += data
        *lines, self._pending = self._pending.split(b"\n")
        for event in map(json.loads, lines):
            match event:
                case {"folder": folder}:
                    self.part.folder = folder
                case {"began": case}:
                    self._case = case if case["limit_s"] is not None else {}
                    self._taken = Stopwatch(time.monotonic(), LOOK_S)
                case {"ended": _}:
                    self._case = {}
                case {"failed": failed}:
                    self.part.failed.append(FailedCase(*failed))
                case {"code": code}:
                    self._case, self._code = {}, code
                    self._taken = Stopwatch(time.monotonic(), LOOK_S)

    def _give_up(self) -> None:
        calls, why = self._stacks.ask(self._pid), f"{exceeded(self._case['limit_s'])}, and its process had to be killed"
        self._kill()
        key, experiment, title = (self._case[name] for name in ("key", "experiment", "title"))
        self.part.failed.append(FailedCase(key, experiment, title, f"{title}: {why}", f"{why}\n{calls}"))

    def _kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
