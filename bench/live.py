"""How is a job run by real processes? Start nodes and links, configure, assign, watch, collect, clean up."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec

from bench.processes import NodeEnded, Processes, launcher
from netem.emulate import Emulator
from netem.profiles import Duplex
from nodes.chain import NodeReport, Outcome, Say, outcome
from nodes.channel import Channel, ChannelClosed
from nodes.codec import Limits
from nodes.job import Job
from nodes.messages import Assign, Configure, Error, Heartbeat, Hello, Result, Shutdown
from nodes.node import NodeError
from nodes.serve import RUNNER
from nodes.transport import connect

SILENCE_S = 10.0  # a node that says nothing for so long is taken for stopped
SETTLE_S = 1.0  # after a first failure, so long is waited for the process that caused it to be seen ending

Links = list[Duplex]


def run_live(job: Job, links: Links | None = None, say: Say | None = None) -> Outcome:
    """Run ``job`` on processes of its own, joined by ``links``, from the UE on (None: unlimited).

    Raises NodeEnded or NodeError naming the node that ended, fell silent or failed. Leaves no process behind.
    """
    import uvloop  # noqa: PLC0415

    return uvloop.run(_run(job, links or [], say))


async def _run(job: Job, links: Links, say: Say | None) -> Outcome:
    token = secrets.token_urlsafe(32)
    async with AsyncExitStack() as stack:
        processes = await launcher().start(job.nodes, token)
        stack.push_async_callback(processes.end)
        downstream = await _join(job, links, processes, stack)
        limits = Limits()
        controls = []
        for name in job.nodes:
            port = processes.listening[name].port
            control = await connect("127.0.0.1", port, RUNNER, token, limits, bulk=False, peer=name)
            stack.push_async_callback(control.close)
            controls.append(control)
        run = _Run(job, controls, say)
        try:
            result = await _first(run.conduct(downstream), processes.any_ended())
        except (NodeError, ChannelClosed) as error:
            # The neighbours of a node that died notice it as well; name the one that did.
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_S):
                    await processes.any_ended()
            raise _named(processes) or error from None
        if result is None:
            raise _named(processes) or NodeEnded("a node ended before its job did")
        for control in controls:
            await control.close()
        await processes.end(patience_s=5.0)
        return result


async def _first(work: Coroutine[Any, Any, Outcome], ended: Coroutine[Any, Any, None]) -> Outcome | None:
    """The result of ``work``; None if a node ended before."""
    working, ending = asyncio.create_task(work), asyncio.create_task(ended)
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        ending.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


def _named(processes: Processes) -> NodeEnded | None:
    return NodeEnded(processes.said()) if any(processes.ended.values()) else None


async def _join(
    job: Job, links: Links, processes: Processes, stack: AsyncExitStack
) -> list[tuple[str, int] | None]:
    """Where each node finds its downstream neighbour: itself, or the emulator in front of it."""
    addresses: list[tuple[str, int] | None] = []
    emulator: Emulator | None = None
    for p, name in enumerate(job.nodes[1:]):
        address = ("127.0.0.1", processes.listening[name].port)
        if links and links[p] != Duplex():
            if emulator is None:
                emulator = await stack.enter_async_context(Emulator())
            address = await emulator.add_link(address, up=links[p].up, down=links[p].down)
        addresses.append(address)
    return [*addresses, None]


class _Run:
    """One job, as the runner sees it."""

    def __init__(self, job: Job, controls: list[Channel], say: Say | None) -> None:
        self._job, self._controls, self._say = job, controls, say
        self._epochs: list[Result] = []
        self._reports: dict[str, NodeReport] = {}

    async def conduct(self, downstream: list[tuple[str, int] | None]) -> Outcome:
        """Configure the nodes, start the UE, and return when all have reported."""
        for index, (control, address) in enumerate(zip(self._controls, downstream, strict=True)):
            await control.send(Configure(job=self._job, index=index, downstream=address))
        await self._each(self._await_ready)
        for control in reversed(self._controls):
            await control.send(Assign(assignment=0, splits=self._job.splits))
        await self._each(self._follow)
        return outcome(self._epochs, [self._reports[name] for name in self._job.nodes])

    async def _each(self, follow: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for control in self._controls:
                    group.create_task(follow(control))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _await_ready(self, control: Channel) -> None:
        while not isinstance(await self._hear(control), Hello):
            pass

    async def _follow(self, control: Channel) -> None:
        """Take what a node says until it says that it is done."""
        while True:
            match await self._hear(control):
                case Result() as result:
                    self._epochs.append(result)
                    if self._say:
                        self._say(result.metrics)
                case Shutdown(report=done):
                    self._reports[control.peer] = msgspec.convert(done, NodeReport)
                    return

    async def _hear(self, control: Channel) -> Hello | Heartbeat | Result | Shutdown:
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await control.receive()
        except TimeoutError:
            raise NodeError(f"{control.peer} has not been heard of for {SILENCE_S:g} s") from None
        match message:
            case Error(node=node, reason=reason):
                raise NodeError(f"{node}: {reason}")
            case Hello() | Heartbeat() | Result() | Shutdown():
                return message
        raise NodeError(f"{control.peer} sent the runner a {type(message).__name__}")
