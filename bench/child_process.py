"""How does this process speak with one that it starts? By JSON lines on its standard input and output."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

END_S = 3.0  # for a process whose input has ended to be gone


class EndedError(Exception):
    """The other process is gone; the text says how."""


class Child:
    """A process that runs a module of this project, told commands, and telling events."""

    def __init__(self, module: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for this process, which ends the other in order
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths())} | environment,
        )
        self._pending = bytearray()

    def tell(self, **command: Any) -> None:
        """Send one command."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, as the end of its events will say
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()

    def events(self) -> list[dict[str, Any]]:
        """The events that have come; waits for some. Raises EndedError."""
        data = os.read(self.output, 1 << 16)
        if not data:
            self.close()
            raise EndedError(how(self._process.returncode))
        self._pending += data
        if b"\n" not in data:  # a long event comes in many parts
            return []
        *lines, self._pending = self._pending.split(b"\n")
        return [json.loads(line) for line in lines]

    @property
    def output(self) -> int:
        """The file descriptor that events come from."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def close(self, kill: bool = False) -> None:
        """End the process, by the end of its input, at once if it is to be killed; and all it has started and left."""
        if kill:
            self._process.kill()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def paths() -> list[str]:
    """Where this process finds modules, so that others find the same."""
    return [path or os.getcwd() for path in sys.path]


def how(code: int) -> str:
    """How a process ended."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
