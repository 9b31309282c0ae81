"""A node process: it listens, is set up by a runner, joins its neighbours and runs the nodes that it hosts.

The runner's connection is also the process's liveness: a heartbeat a second over it, unshaped. The job ends when the
runner closes it, and not before: a process that is done or has failed says so and stays until then; one that has failed
leaves its connections to the neighbours as they are, so that they do not fail in turn.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from nodes.errors import TRACEBACK_CHARACTERS, NodeError, PeerLostError, one_line, traceback_of
from nodes.federated import process as federated
from nodes.inference import process as inference
from nodes.process.attendance import RunnerChannel
from nodes.process.host_control import HOST_PATH, Host
from nodes.runtime.actions import Direction
from nodes.runtime.allocator import keep_freed_memory, resident_bytes
from nodes.runtime.executors import PacedExecutor, ThreadExecutor
from nodes.runtime.hosting import Hosted, HostPlan
from nodes.runtime.node import Node
from nodes.runtime.report import NodeReport, node_report, report_messages
from nodes.spec.credentials import Credentials
from nodes.training import build as training
from nodes.wire.channel import HEARTBEAT_S, Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.listener import Listener, peer_id
from nodes.wire.messages import (
    RUNNER,
    AnyMessage,
    Computation,
    Configure,
    Enlist,
    Failure,
    Heartbeat,
    Peer,
    PeerLost,
    Ready,
    Report,
    Serve,
)
from nodes.wire.tls import Tls
from nodes.wire.transport import connect

REASON_CHARACTERS = 1000

T = TypeVar("T")
Computes = list[tuple[str, ThreadExecutor]]  # by node


async def serve(
    name: str,
    credentials: Credentials,
    host: str,
    port: int,
    announce: Callable[[int], None],
    *,
    jobs: int | None = None,
    silence_s: float | None = None,
    tls: Tls | None = None,
    listening: socket.socket | None = None,
) -> bool:
    """Be process ``name`` for ``jobs`` jobs (None: until cancelled), one by one; False if the last failed.

    ``announce`` is given the port once the process listens. A runner that is silent for ``silence_s`` is given up, None
    waits for ever. With ``tls`` all connections are encrypted. Raises OSError if it cannot listen, and StuckThreadError
    after a job whose computation does not return.
    """
    keep_freed_memory()
    listener, machine, serving = Listener(name, credentials, host, port, tls), Host(), False
    listener.handlers[HOST_PATH] = machine.attend
    listener.health = lambda: {"node": name, "state": "busy" if serving or machine.held else "idle"}
    await listener.start(listening)
    announce(listener.port)
    succeeded = True
    try:
        while jobs is None or jobs > 0:
            channel, run = await listener.runner()
            control, serving = RunnerChannel(channel, silence_s), True
            computes: Computes = []
            beating = asyncio.create_task(_beat(name, control, computes))
            try:
                succeeded = await _serve_job(listener, control, run, computes)
            finally:
                beating.cancel()
                await control.close()
                listener.drop(run)
                serving = False
            jobs = None if jobs is None else jobs - 1
    finally:
        await listener.close()
    return succeeded


async def _serve_job(listener: Listener, control: RunnerChannel, run: str, computes: Computes) -> bool:
    """Run one job for the runner behind ``control``, report what came of it, and stay until the runner is gone."""
    last: Sequence[AnyMessage] = ()
    with suppress(ChannelClosed):
        try:
            async with AsyncExitStack() as stack:
                last = await _do_job(listener, control, run, computes, stack)
                await control.send_last(last)
        except asyncio.CancelledError:
            await control.send(Failure(node=listener.name, reason="the node was told to end"))
            raise
    return all(isinstance(message, Report) for message in last) and bool(last)


async def _do_job(
    listener: Listener, control: RunnerChannel, run: str, computes: Computes, stack: AsyncExitStack
) -> Sequence[AnyMessage]:
    """What the nodes did, or what failed; if so, channels to the neighbours are left to ``stack``."""
    try:
        plan = _plan(listener.name, await control.receive())
        host = _Host(listener, control, run, plan)
        computes += zip(plan.names, host.computes, strict=True)
        return await host.run(stack)
    except PeerLostError as lost:
        return [PeerLost(peer=lost.peer, reason=str(lost))]
    except Exception as error:  # whatever it is, the runner must know
        reason = one_line(error)[:REASON_CHARACTERS]
        return [Failure(node=listener.name, reason=reason, traceback=traceback_of(error, TRACEBACK_CHARACTERS))]


def _plan(name: str, setup: AnyMessage) -> HostPlan:
    match setup:
        case Configure():
            return training.host_plan(name, setup)
        case Serve():
            return inference.host_plan(name, setup)
        case Enlist():
            return federated.host_plan(setup)
    raise NodeError(f"a runner begins with configure, serve or enlist, not {type(setup).__name__}")


class _Resident(NamedTuple):
    node: Node
    hosted: Hosted
    paced: PacedExecutor | None
    runner: tuple[MemoryChannel, MemoryChannel]  # the node's end of its channel to the runner, and this process's


class _Host:
    """One job of this process."""

    def __init__(self, listener: Listener, control: RunnerChannel, run: str, plan: HostPlan) -> None:
        self._listener, self._control, self._run, self._plan = listener, control, run, plan
        # One executor a node: a paced one must not hold up another.
        self.computes = [ThreadExecutor(plan.threads) for _ in plan.names]
        self._runners: list[tuple[MemoryChannel, MemoryChannel]]
        self._runners = [memory_pair(name, RUNNER) for name in plan.names]

    async def run(self, stack: AsyncExitStack) -> list[Report]:
        """Host the nodes until each has finished; their reports. Raises what a node or its worker raises."""
        plan, cpu_before = self._plan, time.process_time()
        limits = self._listener.limits
        stack.callback(setattr, limits, "payload_bytes", limits.payload_bytes)  # the next job declares its own
        limits.payload_bytes = plan.payload_bytes
        if plan.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())  # the next job chooses for itself
        for compute in self.computes:
            stack.push_async_callback(compute.end)
        handing_out = asyncio.create_task(self._hand_out())
        stack.callback(handing_out.cancel)
        residents = await self._prepare(handing_out, stack)
        stack.push_async_callback(self._close, residents)
        self._let_in(residents[0].node, stack)
        await self._control.send(Ready(node=self._listener.name, pid=os.getpid()))
        try:
            async with asyncio.TaskGroup() as group:  # the first that fails ends all
                for resident in residents:
                    group.create_task(self._live(resident))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        held_bytes = resident_bytes()
        if not plan.lasting:
            await stack.aclose()  # now the channels' connections are final
            self._let_in(residents[0].node, stack)  # one that comes now is told of the end
        reports = [_report(resident) for resident in residents]
        reports[0].resident_bytes, reports[0].cpu_s = held_bytes, time.process_time() - cpu_before
        return report_messages(reports)

    async def _prepare(self, handing_out: asyncio.Task[None], stack: AsyncExitStack) -> list[_Resident]:
        """Join the neighbours, and build the nodes meanwhile. Raises ChannelClosed if the runner goes first."""
        building = self.computes[0].run(self._plan.build)
        joining = asyncio.create_task(self._join(stack))
        preparing = asyncio.gather(building, joining)
        ends: list[asyncio.Future[Any]] = [preparing, handing_out]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                raise ChannelClosed(f"{RUNNER} is gone")
            hosted, channels = preparing.result()
        finally:
            joining.cancel()
            preparing.cancel()
            await asyncio.gather(joining, preparing, return_exceptions=True)
        neighbours = [channels, *({} for _ in self._plan.names[1:])]
        return [self._settle(*parts) for parts in zip(range(len(hosted)), hosted, neighbours, strict=True)]

    async def _join(self, stack: AsyncExitStack) -> dict[Direction, Channel]:
        """Channels to the next node and from the previous ones, as far as the plan names them."""
        channels: dict[Direction, Channel] = {}
        if below := self._plan.next:
            try:
                channels["next"] = await self._reach(self._listener.name, below)
            except ChannelClosed as error:
                raise PeerLostError(below.name, error) from None
            stack.push_async_callback(channels["next"].close)
        expected = dict(self._plan.previous)
        while expected:
            channel = await self._listener.neighbour(self._run)
            stack.push_async_callback(channel.close)
            if channel.peer not in expected:
                raise NodeError(f"{channel.peer} connected, expected {' and '.join(expected)}")
            channels[expected.pop(channel.peer)] = channel
        return channels

    async def _reach(self, name: str, peer: Peer) -> Channel:
        me, listener = peer_id(name, self._run), self._listener
        token, tls = listener.credentials.token(me), listener.tls
        return await connect(peer.host, peer.port, me, token, listener.limits, peer=peer.name, tls=tls)

    def _settle(self, number: int, hosted: Hosted, channels: dict[Direction, Channel]) -> _Resident:
        name, compute, runner = self._plan.names[number], self.computes[number], self._runners[number]
        paced = PacedExecutor(compute, hosted.cost) if hosted.cost else None
        reach = partial(self._reach, name)
        channels = {**channels, RUNNER: runner[0]}
        of_node = (paced or compute, channels, time.perf_counter, reach, hosted.earlier)
        node = Node(name, hosted.role, hosted.worker, *of_node)
        return _Resident(node, hosted, paced, runner)

    def _let_in(self, node: Node, stack: AsyncExitStack) -> None:
        """Attach peers that connect from now on to ``node``, if the plan lets them come."""
        incoming = self._plan.incoming

        async def attach(direction_of: Callable[[str], Direction]) -> None:
            while True:
                channel = await self._listener.neighbour(self._run)
                await node.attach(direction_of(channel.peer), channel)

        if incoming:
            stack.callback(asyncio.create_task(attach(incoming)).cancel)

    async def _hand_out(self) -> None:
        """Let all nodes hear what the runner says, and its end."""
        with suppress(ChannelClosed):
            while True:
                message = await self._control.receive()
                for _, ours in self._runners:
                    with suppress(ChannelClosed):
                        await ours.send(message)
        for _, ours in self._runners:
            await ours.close()

    async def _live(self, resident: _Resident) -> None:
        """Run a node to its end, and let the runner know all that it has to say."""
        theirs, ours = resident.runner
        passing_on = asyncio.create_task(self._pass_on(ours))
        try:
            await resident.node.run()
            await theirs.close()
            await passing_on
            if resident.hosted.last_word is not None:
                await self._control.send(resident.hosted.last_word)
        finally:
            passing_on.cancel()

    async def _pass_on(self, resident: MemoryChannel) -> None:
        with suppress(ChannelClosed):
            while True:
                await self._control.send(await resident.receive())

    async def _close(self, residents: Sequence[_Resident]) -> None:
        await asyncio.gather(*(channel.close() for resident in residents for _, channel in resident.node.used))


def _report(resident: _Resident) -> NodeReport:
    report = node_report(resident.node, **resident.hosted.facts())
    report.pid = os.getpid()
    report.overrun_s = resident.paced.overrun_s if resident.paced else 0.0
    return report


async def _beat(name: str, control: RunnerChannel, computes: Computes) -> None:
    """Let the runner know each second that this process lives, and which of its nodes compute for long."""
    with suppress(ChannelClosed):
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            long = [Computation(node, *since) for node, compute in computes if (since := compute.long_since())]
            await control.send(Heartbeat(node=name, computing=tuple(long)))
