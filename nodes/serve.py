"""How does a node live as a process? It listens, is configured by a runner, joins its neighbours, runs, reports.

The runner's connection is also the node's liveness: a heartbeat a second over it, unshaped; when it ends, so does
the job. A neighbour connects upstream to downstream, by the address that the runner gave.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import msgspec
import torch

from nodes.chain import NodeReport, build, load_data, report
from nodes.channel import Channel, ChannelClosed
from nodes.codec import Limits
from nodes.job import Job
from nodes.messages import Configure, Error, Heartbeat, Hello, Shutdown
from nodes.node import Direction, Node, NodeError, Role, Threaded
from nodes.segment import Segment
from nodes.transport import Server, connect
from nodes.ue import Source

RUNNER = "runner"
HEARTBEAT_S = 1.0


class _Doors:
    """Channels that peers open, by who they are."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._opened: dict[str, asyncio.Queue[Channel]] = {}
        self._sorting = asyncio.create_task(self._sort())

    async def of(self, peer: str) -> Channel:
        """The next channel that ``peer`` opens."""
        return await self._opened.setdefault(peer, asyncio.Queue()).get()

    async def _sort(self) -> None:
        while True:
            channel = await self._server.accept()
            self._opened.setdefault(channel.peer, asyncio.Queue()).put_nowait(channel)

    def close(self) -> None:
        self._sorting.cancel()


async def serve(
    name: str, token: str, host: str, port: int, announce: Callable[[int], None], jobs: int | None = None
) -> bool:
    """Be node ``name`` for ``jobs`` jobs (None: until cancelled), one after the other. False if the last failed."""
    limits = Limits()
    server = Server(token, limits, host, port)
    await server.start()
    announce(server.port)
    doors = _Doors(server)
    well = True
    try:
        while jobs is None or jobs > 0:
            control = await doors.of(RUNNER)
            well = await _serve_job(name, token, limits, doors, control)
            jobs = None if jobs is None else jobs - 1
    finally:
        doors.close()
        await server.close()
    return well


async def _serve_job(name: str, token: str, limits: Limits, doors: _Doors, control: Channel) -> bool:
    """Run one job for the runner behind ``control``; say what failed, if something does."""
    beating = asyncio.create_task(_beat(name, control))
    try:
        message = await control.receive()
        if not isinstance(message, Configure):
            raise NodeError(f"{name}: a runner begins with configure, not {type(message).__name__}")
        limits.payload_bytes = message.job.payload_bytes
        done = await _run_job(message, token, limits, doors, control)
        await control.send(Shutdown(report=msgspec.to_builtins(done)))
        with suppress(ChannelClosed):
            await control.receive()  # the runner closes once it has all reports
    except ChannelClosed:
        return False
    except Exception as error:  # whatever it is, the runner must know
        with suppress(ChannelClosed):
            await control.send(Error(node=name, reason=f"{type(error).__name__}: {error}"))
        return False
    finally:
        beating.cancel()
        await control.close()
    return True


async def _run_job(
    configure: Configure, token: str, limits: Limits, doors: _Doors, control: Channel
) -> NodeReport:
    job, index = configure.job, configure.index
    compute = Threaded(job.threads)
    cpu_before = time.process_time()
    async with AsyncExitStack() as stack:
        channels: dict[Direction, Channel] = {"runner": control}
        if configure.downstream:
            below = job.nodes[index + 1]
            channels["down"] = await connect(*configure.downstream, job.nodes[index], token, limits, peer=below)
            stack.push_async_callback(channels["down"].close)
        role, worker = await asyncio.get_running_loop().run_in_executor(compute.pool, _build, job, index)
        if index:
            channels["up"] = await doors.of(job.nodes[index - 1])
            stack.push_async_callback(channels["up"].close)
        await control.send(Hello(node=job.nodes[index], pid=os.getpid()))
        node = Node(job.nodes[index], role, worker, compute, channels, time.perf_counter)
        await node.run()
    # The channels are closed now, and the kernel's counts of their connections known.
    done = report(node, worker, channels)
    done.pid = os.getpid()
    done.cpu_s = time.process_time() - cpu_before
    return done


def _build(job: Job, index: int) -> tuple[Role, Segment | Source]:
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    return build(job, index, load_data(job) if index == 0 else None)


async def _beat(name: str, control: Channel) -> None:
    with suppress(ChannelClosed):
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await control.send(Heartbeat(node=name))
