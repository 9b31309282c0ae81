"""What peers may leave at a node that knows nothing of their run, and what a job may declare."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import torch

from nodes.spec.job import Job, StageSpec
from nodes.spec.service import Service
from nodes.wire import listener as listening
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import Decoder, FrameError, Limits, encode
from nodes.wire.listener import EARLY_BYTES, Listener, peer_id
from nodes.wire.messages import RUNNER, Activation, Configure
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import connect, largest_message

TOKEN = "a secret"
MIB = 1 << 20


def served(scenario: Callable[[Listener], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs ``scenario`` with a node that listens."""

    async def serve() -> None:
        listener = Listener("mec", TOKEN, "127.0.0.1", 0)
        await listener.start()
        try:
            await asyncio.wait_for(scenario(listener), 60)
        finally:
            await listener.close()

    return lambda: asyncio.run(serve())


async def opened(listener: Listener, run: str) -> SocketChannel:
    return await connect("127.0.0.1", listener.port, peer_id("ue", run), TOKEN, Limits(MIB, 64 * MIB), peer="mec")


def activation(size: int) -> Activation:
    return Activation(assignment=0, step=0, train=True, tensors={"x": torch.zeros(size, dtype=torch.uint8)})


async def refused(channel: SocketChannel) -> str:
    with pytest.raises(ChannelClosed) as error:
        await channel.receive()
    return str(error.value)


@served
async def test_a_run_that_does_not_exist_fills_no_memory(listener: Listener) -> None:
    channel = await opened(listener, "no such run")
    with suppress(ChannelClosed):
        for _ in range(EARLY_BYTES // (MIB // 4) + 2):
            await channel.send(activation(MIB // 4))
    assert "wait to be received" in await refused(channel)


@served
async def test_a_neighbour_that_comes_early_keeps_its_messages(listener: Listener) -> None:
    channel = await opened(listener, "run")
    await channel.send(activation(100))
    taken = await listener.neighbour("run")
    for _ in range(8):  # more than may wait before the run is known
        await channel.send(activation(MIB))
    sizes = [(await taken.receive()).tensors["x"].nbytes for _ in range(9)]  # type: ignore[union-attr]
    assert sizes == [100, *[MIB] * 8]
    await channel.close()


@served
async def test_channels_of_a_run_that_is_over_or_never_comes_are_closed(listener: Listener) -> None:
    asking = asyncio.create_task(listener.neighbour("run"))
    first, second = [await opened(listener, "run") for _ in range(2)]
    await asking
    listener.drop("run")
    assert "the run is over" in await refused(second)
    listening.EARLY_S, before = 0.0, listening.EARLY_S
    try:
        assert "has not become part of the run" in await refused(await opened(listener, "another"))
    finally:
        listening.EARLY_S = before
    await first.close()


@served
async def test_a_second_runner_is_told_that_the_node_is_busy(listener: Listener) -> None:
    listening.BUSY_S, before = 0.2, listening.BUSY_S
    try:
        first, second = [
            await connect("127.0.0.1", listener.port, peer_id(RUNNER, run), TOKEN, bulk=False, peer="mec")
            for run in ("one", "two")
        ]
        taken, run = await listener.runner()
        assert run == "one"
        assert "mec is busy with another run" in await refused(second)
        await first.close()
        third = await connect("127.0.0.1", listener.port, peer_id(RUNNER, "three"), TOKEN, bulk=False, peer="mec")
        assert (await listener.runner())[1] == "three"
    finally:
        listening.BUSY_S = before
    await third.close()
    await taken.close()


def test_a_payload_is_declared_within_what_the_wire_can_carry() -> None:
    about = {"model": "small_cnn", "input_shape": (3, 16, 16), "classes": 10, "nodes": ("ue", "mec")}
    job = Job(**about, splits=(3,), stages=(StageSpec(),))
    for size, fits in ((0, True), ((1 << 32) - 1, True), (1 << 32, False), (-1, False)):
        message = Configure(job=msgspec.structs.replace(job, payload_bytes=size), index=0)
        frame = b"".join(encode(message))
        if fits:
            assert Decoder().feed(frame)[0][1].job.payload_bytes == size  # type: ignore[union-attr]
            assert 0 < largest_message(Limits(payload_bytes=size), bulk=False) < 1 << 32
        else:
            with pytest.raises(FrameError, match="payload_bytes"):
                Decoder().feed(frame)
    assert Service.__annotations__["payload_bytes"] == Job.__annotations__["payload_bytes"]


def test_what_a_job_declares_is_no_bound_of_the_websocket_beside_a_tensor_socket() -> None:
    assert largest_message(Limits(payload_bytes=1 << 31), bulk=True) == largest_message(Limits(), bulk=True)
