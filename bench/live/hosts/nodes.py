"""Nodes of a run on machines of their own: started there or waited for, with their clocks measured."""

import asyncio
import logging
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress

from bench.child_process import END_S, exit_text
from bench.live.hosts.control import AbsentError, HostControl
from bench.live.hosts.document import HostMeasurement, Hosts, NodeHost
from bench.live.processes import Ended, Nodes, RunError
from netem.proxy import authority
from nodes.spec.credentials import Credentials
from nodes.wire.messages import RUNNER

RETRY_S = 0.25  # between looks whether a node listens
CLOCK_S = 10.0  # between measurements of the clocks: oscillators differ by some microseconds a second
ANSWER_S = 20.0  # for a machine to tell its clock
LAST_WORDS = 500  # characters of what a command that ended wrote to its standard error

logger = logging.getLogger(__name__)


class HostNodes(Nodes):
    """The nodes of one live run on ``hosts``."""

    def __init__(self, hosts: Hosts) -> None:
        super().__init__({name: node.address for name, node in hosts.nodes.items()}, hosts.token)
        self.controls: dict[str, HostControl] = {}
        self._hosts, self.tls = hosts, hosts.tls
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._watching: set[asyncio.Task[None]] = set()

    def offset_s(self, name: str) -> float:
        measured = self._hosts.measured.get(name)
        return measured.clock_offset_s if measured else 0.0

    async def start(self, names: Sequence[str], token: str) -> None:
        if missing := [name for name in names if name not in self.addresses]:
            raise RunError(f"{self._hosts.path}: nodes: no {', '.join(missing)}", weight=2)
        try:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(self._start(self._hosts.nodes[name], token))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        for name in names:
            await self._measure_clock(name)

    async def watch(self, ended: Ended) -> None:
        """Call ``ended`` for each that was started for this run and ends; meanwhile measure the clocks again.

        The loss of a machine is told by the connection to its node: the protocol decides whether the run goes on.
        """
        while True:
            try:
                async with asyncio.timeout(CLOCK_S):
                    name, how = await self._ended.get()
            except TimeoutError:
                await asyncio.gather(*map(self._look_at_clock, list(self.controls)))
            else:
                await ended(name, how)

    def kill(self, name: str) -> None:
        if (child := self._children.get(name)) and child.returncode is None:
            child.kill()

    async def end(self, patience_s: float = 0.0) -> None:
        controls, self.controls = list(self.controls.values()), {}
        await asyncio.gather(*(control.close() for control in controls))
        children, self._children = list(self._children.values()), {}
        await asyncio.gather(*(_end(child, patience_s) for child in children))
        for task in self._watching:
            task.cancel()

    async def _start(self, node: NodeHost, token: str) -> None:
        """Start ``node`` if that is ours to do, and connect to its machine. Raises RunError."""
        own = Credentials.of(token, node.name)
        child = None if node.command is None else await self._spawn(node, node.command, own)
        deadline_s = time.monotonic() + self._hosts.wait_s
        while True:
            try:
                self.controls[node.name] = await HostControl.open(node.name, node.address, own.token(RUNNER), self.tls)
            except AbsentError as absent:
                if child is not None and child.returncode is not None:
                    raise RunError(f"{node.name}: {await _last_words(node, child)}", weight=2) from None
                if time.monotonic() > deadline_s:
                    raise RunError(self._absent(node, absent), weight=2) from None
            else:
                return
            await asyncio.sleep(RETRY_S)

    def _absent(self, node: NodeHost, why: AbsentError) -> str:
        there = f"{node.name} at {authority(*node.address)} {why} after {self._hosts.wait_s:g} s"
        return f"{there}; start it there: {node.by_hand}" if node.command is None else there

    async def _spawn(
        self, node: NodeHost, command: Sequence[str], credentials: Credentials
    ) -> asyncio.subprocess.Process:
        """Start the command of ``node``, which reads its credentials and ends when its standard input does."""
        allowed = [word for module in self.modules for word in ("--allow", module)]
        words, pipe = [*command, *node.arguments, "--once", "--attached", *allowed], asyncio.subprocess.PIPE
        try:
            child = await asyncio.create_subprocess_exec(
                *words, stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise RunError(f"{node.name}: {command[0]}: {error.strerror}", weight=2) from None
        self._children[node.name] = child
        logger.info("node %s started: %s", node.name, shlex.join(words))
        assert child.stdin is not None
        child.stdin.write(f"{credentials.text}\n".encode())
        task = asyncio.create_task(self._await_end(node.name, child))
        self._watching.add(task)
        return child

    async def _await_end(self, name: str, child: asyncio.subprocess.Process) -> None:
        how = exit_text(await child.wait())
        logger.info("node %s %s", name, how)
        self._ended.put_nowait((name, how))

    async def _look_at_clock(self, name: str) -> None:
        """Measure the clock of ``name`` again, whose machine hears of this runner by it, or go on without."""
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._measure_clock(name)
        except (RunError, TimeoutError) as lost:
            logger.info("%s", lost or f"{name}: its host control does not answer")
            await self.controls.pop(name).close()

    async def _measure_clock(self, name: str) -> None:
        offset_s, uncertainty_s = await self.controls[name].clock()
        measured = self._hosts.measured.setdefault(name, HostMeasurement(offset_s, uncertainty_s))
        measured.clock_offset_s, measured.clock_uncertainty_s = offset_s, uncertainty_s


async def _last_words(node: NodeHost, child: asyncio.subprocess.Process) -> str:
    """How the command of a node ended before the node listened, with what it wrote last."""
    assert node.command is not None
    assert child.stderr is not None
    assert child.returncode is not None
    words = " ".join((await child.stderr.read()).decode(errors="replace").split())[-LAST_WORDS:]
    return f"{shlex.join(node.command)} {exit_text(child.returncode)}{': ' if words else ''}{words}"


async def _end(child: asyncio.subprocess.Process, patience_s: float) -> None:
    """Wait for the command of a node to end, then end its input, then kill it."""
    assert child.stdin is not None
    for wait_s, act in ((patience_s, child.stdin.close), (END_S, child.kill)):
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await child.wait()
        if child.returncode is not None:
            break
        act()
    child.stdin.close()
    await child.wait()
