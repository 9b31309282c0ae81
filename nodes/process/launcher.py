"""Fork server of node processes, with torch imported once.

It must never run a tensor operation, start a thread or an event loop: a later fork could hang. Commands are JSON lines
on standard input, events JSON lines on standard output. When its input ends, the runner is gone: the launcher kills
the nodes and exits. When the launcher is killed, the kernel kills the nodes.
"""

import asyncio
import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

import uvloop

import nodes.process.serve  # imports torch, once for all nodes
from netem.kernel.namespace import enter
from nodes.imports import modules_allowed
from nodes.spec.credentials import Credentials
from nodes.user_modules import user_modules

PRELOADED = ("torchvision",)  # else imported by each node
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # of <sys/prctl.h>

libc = ctypes.CDLL(None)


class Launcher:
    """Forks nodes on command and reports their exits."""

    def __init__(self) -> None:
        libc.prctl(PR_SET_NAME, b"launcher")  # the name in process tables
        self._events = os.dup(1)
        os.dup2(2, 1)  # output of a user's model is no event
        self._nodes: dict[int, str] = {}
        self._modules: list[str] = []  # that the next nodes may import, beside built-in ones
        self._wake = os.pipe()
        os.set_blocking(self._wake[1], False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner handles Ctrl-C

    def run(self) -> None:
        """Execute commands until standard input ends."""
        pending = b""
        self._emit(event="ready")
        try:
            while True:
                readable, _, _ = select.select([0, self._wake[0]], [], [])
                if self._wake[0] in readable:
                    os.read(self._wake[0], 4096)
                    self._reap(os.WNOHANG)
                if 0 in readable:
                    data = os.read(0, 1 << 16)
                    if not data:
                        return
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        self._execute(json.loads(line))
        finally:
            self._end_nodes()

    def _execute(self, command: dict[str, Any]) -> None:
        match command:
            case {"do": "start", "credentials": credentials, "paths": paths, "folders": folders, **rest}:
                sys.path[:] = paths
                self._modules = rest["modules"]
                for name, own in credentials.items():
                    self._fork(name, Credentials(*own), folders, rest["namespaces"].get(name))
            case {"do": "kill", "name": name}:
                for pid in [pid for pid, called in self._nodes.items() if called == name]:
                    os.kill(pid, signal.SIGKILL)
            case {"do": "end"}:
                self._end_nodes()
                self._emit(event="over")

    def _emit(self, **event: Any) -> None:
        """Write one event; short lines are written atomically, also by concurrent nodes."""
        with suppress(BrokenPipeError):  # the runner is gone; the input ends too
            os.write(self._events, json.dumps(event).encode() + b"\n")

    def _end_nodes(self) -> None:
        for pid in self._nodes:
            os.kill(pid, signal.SIGKILL)
        self._reap(0)

    def _reap(self, options: int) -> None:
        for pid in list(self._nodes):
            ended, status = os.waitpid(pid, options)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                self._emit(event="ended", node=self._nodes.pop(pid), code=code)

    def _fork(self, name: str, credentials: Credentials, folders: list[str], namespace: str | None) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._nodes[pid] = name
        else:
            self._become_node(name, credentials, folders, namespace, parent)

    def _become_node(
        self, name: str, credentials: Credentials, folders: list[str], namespace: str | None, parent: int
    ) -> None:
        """Run as node ``name`` for one job; never return."""
        code = 1
        try:
            libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
            libc.prctl(PR_SET_NAME, name.encode())
            if os.getppid() != parent:
                os._exit(code)  # the launcher ended before prctl
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (0, *self._wake):
                os.close(fd)
            os.open(os.devnull, os.O_RDONLY)
            host = "127.0.0.1"
            if namespace is not None:
                enter(namespace)
                host = "0.0.0.0"  # the namespace has only its loopback device, for the runner, and its links
            modules = user_modules(folders).in_use()
            with modules_allowed(self._modules), modules, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                code = 0 if runner.run(self._serve(name, credentials, host)) else 1
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    async def _serve(self, name: str, credentials: Credentials, host: str) -> bool:
        def announce(port: int) -> None:
            self._emit(event="listening", node=name, port=port)
            os.close(self._events)  # else the runner misses the launcher's own end

        return await nodes.process.serve.serve(name, credentials, host, 0, announce, jobs=1)


def main() -> None:
    launcher = Launcher()
    for module in PRELOADED:
        import_module(module)
    gc.freeze()  # keep the pages of imported modules shared
    launcher.run()


if __name__ == "__main__":
    main()
