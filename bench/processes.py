"""How does the runner start nodes and notice that one ended? Its side of the launcher, kept for all its runs."""

import asyncio
import atexit
import json
import os
import signal
import subprocess
import sys
from typing import Any, NamedTuple

START_S = 60.0


class Process(NamedTuple):
    """A node that listens."""

    name: str
    pid: int
    port: int


class NodeEnded(RuntimeError):
    """A node's process ended before its job did; names it."""


class Launcher:
    """The process that forks nodes. One at a time may run a chain from it."""

    def __init__(self) -> None:
        # The nodes hold the reading end; this process alone holds the writing end, until it ends, however it does.
        alive_read, self._alive_write = os.pipe()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "nodes.launcher", str(alive_read)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[alive_read],
            start_new_session=True,  # Ctrl-C in the terminal is for the runner, which ends the nodes in order
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},  # idle threads of one node must not slow another
        )
        os.close(alive_read)
        self._pending = b""
        self._ready = False

    async def start(self, names: tuple[str, ...], token: str) -> "Processes":
        """Fork a node for each of ``names`` and wait until all listen. Raises NodeEnded."""
        nodes = Processes(self)
        nodes.watch()
        try:
            async with asyncio.timeout(START_S):
                await nodes.begin(names, token, self._ready)
            self._ready = True
        except BaseException:
            await nodes.end()
            raise
        return nodes

    def tell(self, **command: Any) -> None:
        """Send one command."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(command).encode() + b"\n")
        self._server.stdin.flush()

    def events(self) -> list[dict[str, Any]]:
        """The events that have come. Raises NodeEnded if the launcher itself has ended."""
        data = os.read(self.output, 1 << 16)
        if not data:
            raise NodeEnded(f"the launcher of nodes ended with code {self._server.wait()}")
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    @property
    def output(self) -> int:
        """The file descriptor that events come from."""
        assert self._server.stdout is not None
        return self._server.stdout.fileno()

    @property
    def runs(self) -> bool:
        """Whether the launcher is there."""
        return self._server.poll() is None

    def close(self) -> None:
        """End the launcher and whatever it still runs."""
        os.close(self._alive_write)
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait()


class Processes:
    """The nodes of one run: who listens where, and which ended."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._broken: NodeEnded | None = None
        self._ready = False
        self.listening: dict[str, Process] = {}
        self.ended: dict[str, int] = {}

    def watch(self) -> None:
        """Take note of what the launcher says."""
        self._loop.add_reader(self._launcher.output, self._read)

    async def begin(self, names: tuple[str, ...], token: str, ready: bool) -> None:
        """Ask for the nodes, and wait until they listen. Raises NodeEnded."""
        await self._until(lambda: ready or self._ready)
        self._launcher.tell(do="start", names=names, token=token)
        await self._until(lambda: len(self.listening) + len(self.ended) == len(names))
        if self.ended:
            raise NodeEnded(self.said())

    async def any_ended(self) -> None:
        """Return as soon as a node has ended."""
        await self._until(lambda: bool(self.ended))

    async def all_ended(self) -> None:
        """Return when all nodes have ended."""
        await self._until(lambda: set(self.listening) <= set(self.ended))

    def said(self) -> str:
        """How nodes ended, in words."""
        return "; ".join(f"{name} {_how(code)}" for name, code in sorted(self.ended.items()))

    async def end(self, patience_s: float = 0.0) -> None:
        """Wait for the nodes to end for ``patience_s``, then kill them."""
        try:
            if patience_s:
                try:
                    async with asyncio.timeout(patience_s):
                        await self.all_ended()
                except TimeoutError:
                    pass
            if self._launcher.runs:
                self._launcher.tell(do="kill", pids=[process.pid for process in self.listening.values()])
                await self.all_ended()
        finally:
            self._loop.remove_reader(self._launcher.output)

    async def _until(self, condition: Any) -> None:
        while not condition():
            if self._broken:
                raise self._broken
            self._changed.clear()
            await self._changed.wait()

    def _read(self) -> None:
        try:
            events = self._launcher.events()
        except NodeEnded as error:
            self._broken = error
            self._loop.remove_reader(self._launcher.output)
            events = []
        for event in events:
            match event["event"]:
                case "ready":
                    self._ready = True
                case "listening":
                    self.listening[event["node"]] = Process(event["node"], event["pid"], event["port"])
                case "ended":
                    self.ended[event["node"]] = event["code"]
        self._changed.set()


_launcher: Launcher | None = None


def launcher() -> Launcher:
    """The launcher of this process, started when first asked for; importing torch once serves all runs."""
    global _launcher  # noqa: PLW0603  (one a process, as the interpreter itself is)
    if _launcher is None or not _launcher.runs:
        _launcher = Launcher()
        atexit.register(_launcher.close)
    return _launcher


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"
