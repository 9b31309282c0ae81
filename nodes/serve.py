"""How does a node live as a process? It listens, is configured by a runner, joins its neighbours and runs.

The runner's connection is also the node's liveness: a heartbeat a second over it, unshaped. The job ends when
the runner closes it, and not before: a node that is done or has failed says so and stays until then; one that
has failed leaves its connections to the neighbours as they are, so that they do not fail in turn. A neighbour
connects from upstream, to the address that the runner gave.
"""

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import msgspec
import torch

from nodes.chain import build, load_data, report
from nodes.channel import Channel, ChannelClosed
from nodes.codec import Limits
from nodes.job import Job
from nodes.memory import keep_freed_memory
from nodes.messages import Configure, Error, Heartbeat, Hello, Shutdown
from nodes.node import Direction, Node, NodeError, PeerLostError, Role, Stretched, Threaded
from nodes.segment import Segment
from nodes.transport import Server, connect
from nodes.ue import Source

RUNNER = "runner"
HEARTBEAT_S = 1.0
REASON_CHARACTERS = 1000

T = TypeVar("T")


def calling(name: str, run: str) -> str:
    """How ``name`` presents itself to a node; channels of one run are not taken for those of another."""
    return f"{name}/{run}"


class _Home:
    """Where a node is at home: it listens here, and channels that peers open are sorted by who they are."""

    def __init__(self, name: str, token: str, host: str, port: int) -> None:
        self.name, self.token = name, token
        self.limits = Limits()
        self._server = Server(token, self.limits, host, port)
        self._runners: asyncio.Queue[tuple[Channel, str]] = asyncio.Queue()
        self._neighbours: dict[str, asyncio.Queue[Channel]] = defaultdict(asyncio.Queue)

    async def open(self) -> int:
        """Listen; the port."""
        await self._server.start()
        self._sorting = asyncio.create_task(self._sort())
        return self._server.port

    async def runner(self) -> tuple[Channel, str]:
        """The channel of the next runner, and what it calls its run."""
        return await self._runners.get()

    async def neighbour(self, name: str, run: str) -> Channel:
        """The channel that ``name`` opens in ``run``."""
        return await self._neighbours[calling(name, run)].get()

    async def close(self) -> None:
        """Close all channels and listen no more."""
        self._sorting.cancel()
        await self._server.close()

    async def _sort(self) -> None:
        while True:
            channel = await self._server.accept()
            called = channel.peer
            channel.peer, _, run = called.rpartition("/")
            for connection in channel.connections:
                connection.peer = channel.peer
            if channel.peer == RUNNER:
                self._runners.put_nowait((channel, run))
            else:
                self._neighbours[called].put_nowait(channel)


async def serve(
    name: str, token: str, host: str, port: int, announce: Callable[[int], None], *, jobs: int | None = None
) -> bool:
    """Be node ``name`` for ``jobs`` jobs (None: until cancelled), one by one; False if the last failed.

    ``announce`` is told the port once the node listens. Raises OSError if it cannot listen.
    """
    keep_freed_memory()
    home = _Home(name, token, host, port)
    announce(await home.open())
    well = True
    try:
        while jobs is None or jobs > 0:
            control, run = await home.runner()
            beating = asyncio.create_task(_beat(name, control))
            try:
                well = await _serve_job(home, control, run)
            finally:
                beating.cancel()
                await control.close()
            jobs = None if jobs is None else jobs - 1
    finally:
        await home.close()
    return well


async def _serve_job(home: _Home, control: Channel, run: str) -> bool:
    """Run one job for the runner behind ``control``, tell it what came of that, and stay until it is gone."""
    said: Shutdown | Error | None = None
    with suppress(ChannelClosed):
        async with AsyncExitStack() as stack:
            said = await _do_job(home, control, run, stack)
            await control.send(said)
            await _unless_gone(control, asyncio.Event().wait())
    return isinstance(said, Shutdown)


async def _do_job(home: _Home, control: Channel, run: str, stack: AsyncExitStack) -> Shutdown | Error:
    """What the node did, or what failed; if so, channels to the neighbours are left to ``stack``."""
    try:
        configure = await control.receive()
        if not isinstance(configure, Configure):
            raise NodeError(f"a runner begins with configure, not {type(configure).__name__}")
        cpu_before = time.process_time()
        home.limits.payload_bytes = configure.job.payload_bytes
        if configure.job.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())  # the next job chooses for itself
        compute = Threaded(configure.job.threads)
        stack.callback(compute.pool.shutdown, wait=False, cancel_futures=True)
        preparing = _prepare(home, configure, run, compute, stack)
        role, worker, channels = await _unless_gone(control, preparing)
        devices = configure.job.devices
        device = Stretched(compute, devices[configure.index]) if devices else None
        channels["runner"] = control
        node = Node(home.name, role, worker, device or compute, channels, time.perf_counter)
        await control.send(Hello(node=home.name, pid=os.getpid()))
        await node.run()
        await stack.aclose()  # now the channels' connections are final
        done = report(node, worker, channels)
        done.pid = os.getpid()
        done.cpu_s = time.process_time() - cpu_before
        done.overrun_s = device.overrun_s if device else 0.0
        return Shutdown(report=msgspec.to_builtins(done))
    except PeerLostError as lost:
        return Error(node=lost.peer, reason=str(lost))
    except Exception as error:  # whatever it is, the runner must know
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Error(node=home.name, reason=reason[:REASON_CHARACTERS])


async def _prepare(
    home: _Home, configure: Configure, run: str, compute: Threaded, stack: AsyncExitStack
) -> tuple[Role, Segment | Source, dict[Direction, Channel]]:
    """Join the neighbours, and build the node's part of the model meanwhile."""
    job, index = configure.job, configure.index
    building = asyncio.get_running_loop().run_in_executor(compute.pool, _build, job, index)
    channels: dict[Direction, Channel] = {}
    if configure.downstream:
        below = job.nodes[index + 1]
        me = calling(home.name, run)
        try:
            channels["down"] = await connect(*configure.downstream, me, home.token, home.limits, peer=below)
        except ChannelClosed as error:
            raise PeerLostError(below, error) from None
        stack.push_async_callback(channels["down"].close)
    if index:
        channels["up"] = await home.neighbour(job.nodes[index - 1], run)
        stack.push_async_callback(channels["up"].close)
    return *await building, channels


def _build(job: Job, index: int) -> tuple[Role, Segment | Source]:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return build(job, index, load_data(job) if index == 0 else None)


async def _unless_gone(control: Channel, work: Coroutine[Any, Any, T]) -> T:
    """What comes of ``work``. Raises ChannelClosed if the runner goes first."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(control.receive())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if leaving.done():
            raise NodeError(f"unexpected {type(leaving.result()).__name__} from the runner")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _beat(name: str, control: Channel) -> None:
    with suppress(ChannelClosed):
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await control.send(Heartbeat(node=name))
