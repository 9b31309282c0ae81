"""What peers may leave at a node that knows nothing of their run, and what a job may declare."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import torch

from nodes.spec.credentials import Credentials
from nodes.spec.job import Job, StageSpec
from nodes.spec.service import Service
from nodes.wire import listener as listening
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import Decoder, FrameError, Limits, encode
from nodes.wire.listener import EARLY_BYTES, Listener, peer_id
from nodes.wire.messages import RUNNER, Activation, Configure
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import connect, largest_message

KEYS = Credentials.of("a secret", "mec")
MIB = 1 << 20


def served(scenario: Callable[[Listener], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs ``scenario`` with a node that listens."""

    async def serve() -> None:
        listener = Listener("mec", KEYS, "127.0.0.1", 0)
        await listener.start()
        try:
            await asyncio.wait_for(scenario(listener), 60)
        finally:
            await listener.close()

    def test() -> None:  # no lambda, which takes no marks
        asyncio.run(serve())

    return test


async def opened(listener: Listener, run: str) -> SocketChannel:
    peer = peer_id("ue", run)
    return await connect("127.0.0.1", listener.port, peer, KEYS.token(peer), Limits(MIB, 64 * MIB), peer="mec")


async def as_runner(listener: Listener, run: str) -> SocketChannel:
    me = peer_id(RUNNER, run)
    return await connect("127.0.0.1", listener.port, me, KEYS.token(me), bulk=False, peer="mec")


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


@pytest.mark.promise("Time", "a second runner comes to a busy `bench node`", "it is told so at once")
@served
async def test_a_second_runner_is_told_at_once_that_the_node_is_busy(listener: Listener) -> None:
    listening.BUSY_S, before = 600.0, listening.BUSY_S  # longer than this test may take
    try:
        first = await as_runner(listener, "one")
        taken, run = await listener.runner()
        assert run == "one"
        assert "mec is busy with another run" in await refused(await as_runner(listener, "two"))
        await first.close()
        third = await as_runner(listener, "three")  # while the node still ends the first run
        assert (await listener.runner())[1] == "three"
    finally:
        listening.BUSY_S = before
    await third.close()
    await taken.close()


@served
async def test_a_runner_waits_a_while_for_the_end_of_a_run_that_has_lost_its_own(listener: Listener) -> None:
    listening.BUSY_S, before = 0.1, listening.BUSY_S
    try:
        first = await as_runner(listener, "one")
        taken, _ = await listener.runner()
        await first.close()
        assert "mec is busy with another run" in await refused(await as_runner(listener, "two"))
    finally:
        listening.BUSY_S = before
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


@served
async def test_a_peer_is_no_runner_of_another_node_and_its_token_is_good_for_one_run(
    listener: Listener,
) -> None:
    cloud = Credentials.of("a secret", "cloud")  # what another node of the same runner holds
    assert cloud.peers == KEYS.peers
    tokens = {
        peer_id(RUNNER, "run"): [cloud.token(peer_id(RUNNER, "run")), KEYS.token(peer_id("ue", "run"))],
        peer_id("ue", "run"): [KEYS.token(peer_id("ue", "run before")), KEYS.token(peer_id("mec2", "run")), "a secret"],
        peer_id("ue", "other"): [KEYS.token(peer_id(RUNNER, "other")), KEYS.peers, KEYS.runner],
    }
    for peer, wrong in tokens.items():
        for token in wrong:
            with pytest.raises(ChannelClosed, match="refused with status 401"):
                await connect("127.0.0.1", listener.port, peer, token, peer="mec")
    await (await as_runner(listener, "run")).close()


def test_credentials_are_read_as_they_are_written_and_shown_nowhere() -> None:
    assert Credentials.read(KEYS.text) == KEYS
    assert not any(key in f"{KEYS!r} {KEYS}" for key in KEYS)
    for text in ("node", "node.a.b", KEYS.text[:-1], KEYS.text + ".x", KEYS.text.removeprefix("node.")):
        with pytest.raises(ValueError, match=r"expected node\.KEY\.KEY"):
            Credentials.read(text)


@served
async def test_a_refused_request_ends_its_connection(listener: Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET /control?node=ue/run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 401")  # to the end of the stream
    writer.close()
