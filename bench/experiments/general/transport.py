"""Time of a tensor hop over SplitMEC's transport, raw sockets, gloo and pickle.

Two processes on this machine measure all transports hop by hop in turn, so that load slows them alike. Only the
ratios can be claimed; the seconds depend on the machine. A hop sends a tensor and ends with a small answer. The
receiver has the bytes in a torch tensor: a new one each time with ours and pickle, one allocated beforehand with raw
sockets and gloo, which favours them.
"""

import asyncio
import multiprocessing
import pickle
import secrets
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast

import msgspec
import numpy as np
import torch
import uvloop

from bench.suite.experiment import Context, Measurement, Problem, Setting, measures_here
from nodes.runtime.allocator import keep_freed_memory
from nodes.wire.codec import Limits
from nodes.wire.messages import Activation, Result
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import Server, connect
from reports.record import CaseValue

HOST = "127.0.0.1"
LENGTH = struct.Struct("<Q")
ANSWER_BYTES = 16
TAG = 0

distributed: Any = torch.distributed  # its stubs lack the process groups

TransferPlan = list[tuple[int, int]]  # (bytes of the tensor, hops) in order; both ends know it
Hop = Callable[[torch.Tensor], Awaitable[None]]  # sends a tensor and returns when the answer has come


class OurWay:
    """A SplitMEC channel: the tensor and the answer go over the upgraded socket, beside the WebSocket."""

    def __init__(self, channel: SocketChannel) -> None:
        self.channel = channel
        self.step = 0

    async def hop(self, tensor: torch.Tensor) -> None:
        self.step += 1
        await self.channel.send(Activation(assignment=0, step=self.step, train=False, tensors={"x": tensor}))
        await self.channel.receive()


async def answer_ours(server: Server) -> None:
    channel = await server.accept()
    while True:
        message = await channel.receive()
        assert isinstance(message, Activation)
        await channel.send(Result(assignment=0, step=message.step))


class RawEnd(asyncio.BufferedProtocol):
    """A socket protocol that fills the buffers of a plan in order."""

    def __init__(self, plan: TransferPlan) -> None:
        buffers = {size: memoryview(bytearray(size)) for size, _ in plan}
        self._buffers = iter([buffers[size] for size, hops in plan for _ in range(hops)])
        self._next()

    def _next(self) -> None:
        self._left = next(self._buffers, memoryview(bytearray(1)))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # not a subclass under uvloop
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, hint: int) -> memoryview:
        return self._left

    def buffer_updated(self, count: int) -> None:
        self._left = self._left[count:]
        if not self._left:
            self.filled()
            self._next()

    def filled(self) -> None:
        self.transport.write(bytes(ANSWER_BYTES))


class RawWay(RawEnd):
    """The sending end of raw sockets."""

    def __init__(self, plan: TransferPlan) -> None:
        super().__init__([(ANSWER_BYTES, sum(hops for _, hops in plan))])

    async def hop(self, tensor: torch.Tensor) -> None:
        self._answered = asyncio.get_running_loop().create_future()
        self.transport.write(tensor.numpy().data)
        await self._answered

    def filled(self) -> None:
        self._answered.set_result(None)


class PickleWay:
    """pickle over asyncio's streams; of a numpy array, which is pickled faster than a torch tensor."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def hop(self, tensor: torch.Tensor) -> None:
        await self.put(tensor.numpy())
        await self.get()

    async def put(self, value: Any) -> None:
        data = pickle.dumps(value, protocol=5)
        self.writer.write(LENGTH.pack(len(data)) + data)
        await self.writer.drain()

    async def get(self) -> Any:
        (size,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
        return pickle.loads(await self.reader.readexactly(size))


async def answer_pickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = PickleWay(reader, writer)
    with suppress(asyncio.IncompleteReadError):  # the sender's end
        while True:
            torch.from_numpy(await peer.get())
            await peer.put(bytes(ANSWER_BYTES))


class GlooWay:
    """torch.distributed's gloo, send and recv; they block."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.answer = torch.empty(ANSWER_BYTES, dtype=torch.uint8)

    async def hop(self, tensor: torch.Tensor) -> None:
        self.group.send([tensor], 1, TAG).wait()
        self.group.recv([self.answer], 1, TAG).wait()


def open_gloo(store: Path, rank: int) -> Any:
    """A group of two over the loopback device, apart from the process's default group."""
    options = distributed.ProcessGroupGloo._Options()
    options._devices = [distributed.ProcessGroupGloo.create_device(hostname=HOST)]
    return distributed.ProcessGroupGloo(distributed.FileStore(str(store), 2), rank, 2, options)


def answer_gloo(store: Path, plan: TransferPlan) -> None:
    group = open_gloo(store, 1)
    answer = torch.zeros(ANSWER_BYTES, dtype=torch.uint8)
    for size, hops in plan:
        tensor = torch.empty(size, dtype=torch.uint8)
        for _ in range(hops):
            group.recv([tensor], 0, TAG).wait()
            group.send([answer], 0, TAG).wait()


Loop = Literal["uvloop", "asyncio"]
LOOPS: dict[Loop, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class HopParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``hops`` of each size and transport are measured after ``warmup`` others."""

    sizes_bytes: tuple[int, ...] = (4 << 10, 64 << 10, 4 << 20, 32 << 20)
    hops: int = 200
    warmup: int = 10
    loop: Loop = "uvloop"

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from measures_here(setting)


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that both processes share."""

    loop: Loop
    plan: TransferPlan
    token: str
    limits: Limits
    store: Path  # the file through which gloo's ends find each other


def hop(parameters: HopParameters, context: Context) -> Iterator[Measurement]:
    """Median and 99th percentile of a hop by size and transport, and ratios of our medians to the others'."""
    setup = Setup(
        loop=parameters.loop,
        plan=[(size, parameters.warmup + parameters.hops) for size in parameters.sizes_bytes],
        token=secrets.token_hex(),
        limits=Limits(payload_bytes=max(parameters.sizes_bytes)),
        store=context.scratch / "gloo",
    )
    setup.store.unlink(missing_ok=True)  # left by a killed run
    with asyncio.Runner(loop_factory=LOOPS[parameters.loop]) as runner:
        seconds = runner.run(_measure(setup, parameters.warmup, context))
    for size, by_way in seconds.items():
        case: dict[str, CaseValue] = {"size_bytes": size, "loop": parameters.loop}
        median_s = {way: float(np.median(times)) for way, times in by_way.items()}
        for way, times in by_way.items():
            yield Measurement("median_s", median_s[way], "s", case | {"way": way})
            yield Measurement("p99_s", float(np.quantile(times, 0.99)), "s", case | {"way": way})
        for way in ("raw", "gloo", "pickle"):
            yield Measurement(f"ratio_to_{way}", median_s["splitmec"] / median_s[way], "1", case)


async def _measure(setup: Setup, warmup: int, context: Context) -> dict[int, dict[str, list[float]]]:
    """Seconds of every hop after the warm-up, by size and transport."""
    generator = torch.Generator().manual_seed(context.seed)
    seconds: dict[int, dict[str, list[float]]] = {}
    async with _ways(setup) as ways:
        for size, rounds in setup.plan:
            tensor = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
            times: dict[str, list[float]] = {name: [] for name in ways}
            names = deque(ways)
            for _ in range(rounds):
                names.rotate()  # no transport is always first
                for name in names:
                    began = time.perf_counter()
                    await ways[name](tensor)
                    times[name].append(time.perf_counter() - began)
            seconds[size] = {name: measured[warmup:] for name, measured in times.items()}
            context.say(f"{size} bytes: {rounds} hops each of {', '.join(ways)}")
    return seconds


@asynccontextmanager
async def _ways(setup: Setup) -> AsyncIterator[dict[str, Hop]]:
    """All transports to a peer process, which ends with the block, or with this process even if that is killed."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    peer = spawn.Process(target=_peer, args=(theirs, setup), daemon=True)
    peer.start()
    theirs.close()  # so that the end of the pipe signals the other end's death
    try:
        ports: dict[str, int] = await asyncio.to_thread(pipe.recv)
        ours = OurWay(await connect(HOST, ports["splitmec"], "sender", setup.token, setup.limits))
        loop = asyncio.get_running_loop()
        _, raw = await loop.create_connection(lambda: RawWay(setup.plan), HOST, ports["raw"])
        pickled = PickleWay(*await asyncio.open_connection(HOST, ports["pickle"]))
        gloo = GlooWay(await asyncio.to_thread(open_gloo, setup.store, 0))
        yield {"splitmec": ours.hop, "raw": raw.hop, "gloo": gloo.hop, "pickle": pickled.hop}
        await ours.channel.close()
        raw.transport.close()
        pickled.writer.close()
        await pickled.writer.wait_closed()
    finally:
        pipe.close()
        await asyncio.to_thread(peer.join, 5)
        peer.kill()


def _peer(pipe: Connection, setup: Setup) -> None:
    """The peer process: answers on every transport until the pipe ends."""
    keep_freed_memory()  # as every node does; pickle profits too
    threading.Thread(target=answer_gloo, args=(setup.store, setup.plan), daemon=True).start()
    with asyncio.Runner(loop_factory=LOOPS[setup.loop]) as runner:
        runner.run(_answer(pipe, setup))


async def _answer(pipe: Connection, setup: Setup) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pipe.fileno(), ended.set)
    server = Server(setup.token, setup.limits)
    await server.start()
    raw = await loop.create_server(lambda: RawEnd(setup.plan), HOST)
    pickled = await asyncio.start_server(answer_pickle, HOST)
    ours = asyncio.create_task(answer_ours(server))
    ports = {name: other.sockets[0].getsockname()[1] for name, other in (("raw", raw), ("pickle", pickled))}
    pipe.send({"splitmec": server.port, **ports})
    await ended.wait()
    loop.remove_reader(pipe.fileno())
    raw.close()
    pickled.close()
    ours.cancel()
    await server.close()
