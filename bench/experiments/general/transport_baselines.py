"""Transports of a tensor between two processes, both ends of each, for the transport benchmark.

A hop sends a tensor and ends with a small answer. The receiver has the bytes in a torch tensor: a new one each time
with ours and pickle, one allocated beforehand with raw sockets and gloo, which favours them.
"""

import asyncio
import pickle
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from nodes.wire.codec import Limits
from nodes.wire.messages import Activation, Result
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import Server, connect

HOST = "127.0.0.1"
LENGTH = struct.Struct("<Q")
ANSWER_BYTES = 16
TAG = 0

distributed: Any = torch.distributed  # its stubs lack the process groups

TransferPlan = list[tuple[int, int]]  # (bytes of the tensor, hops) in order; both ends know it


class Sender(Protocol):
    """The sending end."""

    async def hop(self, tensor: torch.Tensor) -> None:
        """Send ``tensor``; return when the answer has come."""


class OurWay:
    """A SplitMEC channel: the tensor and the answer go over the upgraded socket, beside the WebSocket."""

    def __init__(self, channel: SocketChannel) -> None:
        self.channel = channel
        self.step = 0

    async def hop(self, tensor: torch.Tensor) -> None:
        self.step += 1
        await self.channel.send(Activation(assignment=0, step=self.step, train=False, tensors={"x": tensor}))
        await self.channel.receive()


async def open_ours(port: int, token: str, limits: Limits) -> OurWay:
    return OurWay(await connect(HOST, port, "sender", token, limits))


async def answer_ours(server: Server) -> None:
    channel = await server.accept()
    while True:
        message = await channel.receive()
        assert isinstance(message, Activation)
        await channel.send(Result(assignment=0, step=message.step))


class RawEnd(asyncio.BufferedProtocol):
    """A socket protocol that fills the buffers of a plan in order."""

    def __init__(self, plan: TransferPlan) -> None:
        buffers = {size: bytes_of(torch.empty(size, dtype=torch.uint8)) for size, _ in plan}
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
        self.transport.write(bytes_of(tensor))
        await self._answered

    def filled(self) -> None:
        self._answered.set_result(None)


async def open_raw(port: int, plan: TransferPlan) -> RawWay:
    _, way = await asyncio.get_running_loop().create_connection(lambda: RawWay(plan), HOST, port)
    return way


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


async def open_pickle(port: int) -> PickleWay:
    return PickleWay(*await asyncio.open_connection(HOST, port))


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


def bytes_of(tensor: torch.Tensor) -> memoryview:
    return tensor.numpy().data
