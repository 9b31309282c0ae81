"""Worker process: runs the cases that the runner sends it, on one thread, and returns their results.

When its input ends the runner is gone, for whatever reason: the worker then ends at once, with every process that
experiments have started and left behind.
"""

import json
import os
import queue
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from bench import events
from bench.execution.case import CaseResult, collect_garbage_between, run_case
from bench.execution.limits.stacks import write_on_request
from bench.execution.plan import make_plan, options_of
from bench.suite.document import InputError
from bench.suite.identity import digests

HEARTBEAT_S = 5.0


class Worker:
    def __init__(self) -> None:
        self._events, self._input = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0))
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(2, 1)  # what a user's experiment prints is no event
        os.dup2(nothing, 0)  # what it reads is no command
        # A process that it forks sends no events, and does not keep the pipe open after this process has ended.
        os.register_at_fork(after_in_child=partial(os.dup2, nothing, self._events.fileno()))
        self._sending = threading.Lock()  # experiments may report progress from any thread
        self._commands: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    def work(self) -> None:
        begin = self._commands.get()
        write_on_request(begin["stacks"])
        plan = None
        digests.update(begin["digests"])
        with suppress(InputError):
            plan = make_plan(options_of(begin["options"]), checked=True)
        cases = {(case.key, case.sha256): case for case in plan.selected_cases} if plan else {}
        sink = (lambda event: self._send(event=event)) if plan and plan.options.watch is not None else None
        for command in collect_garbage_between(iter(self._commands.get, None)):
            case = cases.get((command["key"], command["sha256"]))
            if plan and case:
                say = partial(self._say, command["key"])
                self._send(began=command["key"])
                with events.to(sink):
                    result = run_case(plan, case, begin["run"], Path(command["scratch"]), say)
                self._send(result=result)
            else:
                self._send(rejected="the suite, its code or a file of it was changed after the run began")

    def _say(self, key: str, text: str) -> None:
        self._send(key=key, text=text)

    def _send(self, **event: str | CaseResult | events.Event) -> None:
        with self._sending:
            self._events.write(msgspec.json.encode(event) + b"\n")
            self._events.flush()

    def _beat(self) -> None:
        with suppress(OSError):  # the runner is gone
            while True:
                self._send(alive="")
                time.sleep(HEARTBEAT_S)

    def _listen(self) -> None:
        for line in self._input:
            self._commands.put(json.loads(line))
        os.killpg(0, signal.SIGKILL)  # whatever is being computed


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner acts on Ctrl-C
    Worker().work()
