"""How does a case run beside others? In a process of this module, which is told cases and tells what came of them.

It computes on one thread. When its input ends the runner is gone, however it went: it ends at once.
"""

import gc
import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from bench.journal import case_key
from bench.one_case import Came, run_case
from bench.run_plan import make_plan, options_of


class Worker:
    """Runs cases of one run, one after another."""

    def __init__(self) -> None:
        self._events = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what an experiment of the user's prints is no event
        self._telling = threading.Lock()  # experiments may say something from any thread
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def work(self) -> None:
        """Obey until standard input ends."""
        begin = self._commands.get()
        plan = make_plan(options_of(begin["options"]))
        cases = {case_key(case): case for case in plan.selected_cases}
        while True:
            command = self._commands.get()
            case = cases[command["key"]]
            self._tell(came=run_case(plan, case, begin["run"], Path(command["scratch"]), self._say))
            gc.collect()  # networks hold each other: without this the last case's lie beside the next one's

    def _say(self, text: str) -> None:
        self._tell(said=text)

    def _tell(self, **event: str | Came) -> None:
        with self._telling:
            self._events.write(msgspec.json.encode(event) + b"\n")
            self._events.flush()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))
        os._exit(1)  # whatever is being computed


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to act on
    Worker().work()
