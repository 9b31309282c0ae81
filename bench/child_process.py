"""Child processes that exchange JSON lines with this process over their standard input and output."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

from nodes.user_modules import working_folders

# Runs a module with the given search path. An environment variable with the same would have Python itself import
# sitecustomize of a working folder at its start.
START = """
import json, runpy, sys
module, paths, folders = sys.argv[1:]
sys.path[:] = json.loads(paths)
del sys.argv[1:]
from nodes.user_modules import keep_from_packages
keep_from_packages(*json.loads(folders))
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
END_S = 3.0  # from the end of a child's input until it must have ended


class EndedError(Exception):
    """The child process ended; the text says how."""


class Child:
    """A process that runs a module of this project, takes commands and sends events."""

    def __init__(self, module: str, **environment: str) -> None:
        encoding = os.environ.get("PYTHONIOENCODING", "").partition(":")[0]
        escaping = {"PYTHONIOENCODING": f"{encoding}:backslashreplace"}  # whatever users' code prints
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, module, json.dumps(import_paths()), json.dumps(working_folders())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches this process only, which then ends the child
            env=os.environ | escaping | environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands = self._process.stdin
        self.output = self._process.stdout.fileno()  # the file descriptor that events are read from
        self._pending = bytearray()

    def send(self, **command: Any) -> None:
        with suppress(BrokenPipeError):  # the child has ended; the end of its events reports that
            self._commands.write(json.dumps(command).encode() + b"\n")
            self._commands.flush()

    def events(self) -> list[dict[str, Any]]:
        """Wait for output and return the events that are complete. Raises EndedError."""
        data = os.read(self.output, 1 << 16)
        if not data:
            self.close()
            raise EndedError(exit_text(self._process.returncode))
        self._pending += data
        if b"\n" not in data:  # a long event arrives in several parts
            return []
        *lines, self._pending = self._pending.split(b"\n")
        return [json.loads(line) for line in lines]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def close(self, kill: bool = False) -> None:
        """End the process, by closing its input or by ``kill``, and every process that it started and left behind."""
        if kill:
            self._process.kill()
        with suppress(BrokenPipeError):
            self._commands.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def import_paths() -> list[str]:
    """This process's module search path, absolute, for child processes."""
    return [path or os.getcwd() for path in sys.path]


def exit_text(code: int) -> str:
    """How a process with exit ``code`` ended, as a predicate."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
