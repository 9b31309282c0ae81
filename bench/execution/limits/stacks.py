"""Where a process stands that answers nothing: the calls of all its threads, written on a signal, in C alone."""

import faulthandler
import os
import signal
import tempfile
import time
from contextlib import suppress

ASKED = signal.SIGUSR2
ANSWER_S = 0.3  # for the calls to be written; a process that is stopped writes none


def write_on_request(path: str) -> None:
    """Let this process write its calls to the file ``path`` when it is asked."""
    faulthandler.register(ASKED, open(path, "a"), all_threads=True)  # noqa: SIM115  (for as long as the process lives)


class Stacks:
    """The file for the calls of another process."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("r")  # noqa: SIM115  (see ``close``)
        self.path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    def ask(self, pid: int) -> str:
        """The calls of the process ``pid``, which has called ``write_on_request``; none if it cannot answer."""
        with suppress(ProcessLookupError):
            os.kill(pid, ASKED)
            time.sleep(ANSWER_S)
        return self._file.read()

    def close(self) -> None:
        self._file.close()
