"""How does a node live as a process? It listens, is configured by a runner, joins its neighbours and runs.

The runner's connection is also the node's liveness: a heartbeat a second over it, unshaped. The job ends when
the runner closes it, and not before: a node that is done or has failed says so and stays until then; one that
has failed leaves its connections to the neighbours as they are, so that they do not fail in turn. A neighbour
connects from upstream, to the address that the runner gave.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

import msgspec
import torch

from nodes.data.loading import load_data
from nodes.errors import TRACEBACK_CHARACTERS, NodeError, PeerLostError, one_line, traceback_of
from nodes.federated.process import serve_federation
from nodes.inference.process import serve_tasks
from nodes.runtime.actions import Direction, Role
from nodes.runtime.allocator import keep_freed_memory, resident_bytes
from nodes.runtime.executors import PacedExecutor, ThreadExecutor, on_device
from nodes.runtime.node import Node
from nodes.spec.job import Job
from nodes.training.build import build, upstream
from nodes.training.report import report
from nodes.training.segment import Segment
from nodes.training.source import Source
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.listener import Listener, peer_id
from nodes.wire.messages import Configure, Enlist, Error, Heartbeat, Hello, Serve, Shutdown
from nodes.wire.transport import connect

HEARTBEAT_S = 1.0
REASON_CHARACTERS = 1000

T = TypeVar("T")


async def serve(
    name: str, token: str, host: str, port: int, announce: Callable[[int], None], *, jobs: int | None = None
) -> bool:
    """Be node ``name`` for ``jobs`` jobs (None: until cancelled), one by one; False if the last failed.

    ``announce`` is told the port once the node listens. Raises OSError if it cannot listen.
    """
    keep_freed_memory()
    home = Listener(name, token, host, port)
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


async def _serve_job(home: Listener, control: Channel, run: str) -> bool:
    """Run one job for the runner behind ``control``, tell it what came of that, and stay until it is gone."""
    said: Shutdown | Error | None = None
    with suppress(ChannelClosed):
        async with AsyncExitStack() as stack:
            said = await _do_job(home, control, run, stack)
            await control.send(said)
            while True:
                await control.receive()  # too late for whatever it is
    return isinstance(said, Shutdown)


async def _do_job(home: Listener, control: Channel, run: str, stack: AsyncExitStack) -> Shutdown | Error:
    """What the node did, or what failed; if so, channels to the neighbours are left to ``stack``."""
    try:
        configure = await control.receive()
        if isinstance(configure, Serve):
            return await serve_tasks(home, control, run, configure, stack)
        if isinstance(configure, Enlist):
            return await serve_federation(home, control, run, configure, stack)
        if not isinstance(configure, Configure):
            raise NodeError(f"a runner begins with configure, serve or enlist, not {type(configure).__name__}")
        cpu_before = time.process_time()
        home.limits.payload_bytes = configure.job.payload_bytes
        if configure.job.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())  # the next job chooses for itself
        compute = ThreadExecutor(configure.job.threads)
        stack.push_async_callback(compute.end)
        preparing = _prepare(home, configure, run, compute, stack)
        role, worker, channels = await _unless_gone(control, preparing)
        devices = configure.job.devices
        device = PacedExecutor(compute, on_device(devices[configure.index])) if devices else None
        channels["runner"] = control
        node = Node(home.name, role, worker, device or compute, channels, time.perf_counter)
        await control.send(Hello(node=home.name, pid=os.getpid()))
        await node.run()
        held_bytes = resident_bytes()
        await stack.aclose()  # now the channels' connections are final
        done = report(node, worker, channels)
        done.pid, done.resident_bytes = os.getpid(), held_bytes
        done.cpu_s = time.process_time() - cpu_before
        done.overrun_s = device.overrun_s if device else 0.0
        return Shutdown(report=msgspec.to_builtins(done))
    except PeerLostError as lost:
        return Error(node=lost.peer, reason=str(lost))
    except Exception as error:  # whatever it is, the runner must know
        reason = one_line(error)[:REASON_CHARACTERS]
        return Error(node=home.name, reason=reason, traceback=traceback_of(error, TRACEBACK_CHARACTERS))


async def _prepare(
    home: Listener, configure: Configure, run: str, compute: ThreadExecutor, stack: AsyncExitStack
) -> tuple[Role, Segment | Source, dict[Direction, Channel]]:
    """Join the neighbours, and build the node's part of the model meanwhile."""
    job, index = configure.job, configure.index
    building = asyncio.get_running_loop().run_in_executor(compute.pool, _build, job, index, configure.source)
    channels: dict[Direction, Channel] = {}
    if configure.downstream:
        below = job.nodes[index + 1]
        me = peer_id(home.name, run)
        try:
            channels["down"] = await connect(*configure.downstream, me, home.token, home.limits, peer=below)
        except ChannelClosed as error:
            raise PeerLostError(below, error) from None
        stack.push_async_callback(channels["down"].close)
    expected = {above.name: upstream(job, above) for above, here in job.connections if here.node == index}
    while expected:
        channel = await home.neighbour(run)
        stack.push_async_callback(channel.close)
        if channel.peer not in expected:
            raise NodeError(f"{channel.peer} came from upstream, {' and '.join(expected)} was to")
        channels[expected.pop(channel.peer)] = channel
    return *await building, channels


def _build(job: Job, index: int, source: int) -> tuple[Role, Segment | Source]:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return build(job, index, load_data(job) if index == 0 else None, source=source)


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
