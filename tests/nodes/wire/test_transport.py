"""Channels over sockets: order, counted bytes, and what a bad peer can do (nothing to the others)."""

import asyncio
import inspect
import itertools
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, get_args, get_type_hints

import aiohttp
import pytest
import torch
import uvloop

from nodes.model.boundary import Tensors
from nodes.wire import byte_counter, socket_channel
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import JOINED_BYTES, FrameError, Limits, Received, encode, wire_size
from nodes.wire.messages import Activation, AnyMessage, BeginUpdate, Bulk, Gradient, Result, SplitCost, TaskReport
from nodes.wire.socket_channel import MAX_EARLY, Reorder, SocketChannel
from nodes.wire.transport import Server, connect

HOST, TOKEN = "127.0.0.1", "a secret"
MIB = 1 << 20


def on_both_loops(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that runs ``scenario`` with a new server on either event loop."""

    async def serve(**arguments: Any) -> None:
        server = Server(TOKEN, Limits(payload_bytes=64 * MIB))
        await server.start()
        try:
            await asyncio.wait_for(scenario(server, **arguments), 300)
        finally:
            await server.close()

    def test(loop: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(serve(**arguments))

    _, *others = inspect.signature(scenario).parameters.values()
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    test.__signature__ = inspect.Signature([loop, *others])  # type: ignore[attr-defined]
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return pytest.mark.parametrize("loop", loops.values(), ids=loops)(test)


async def pair(server: Server, port: int | None = None, bulk: bool = True) -> tuple[SocketChannel, SocketChannel]:
    """A channel opened to ``server`` and the end that it accepted."""
    opened = await connect(HOST, port or server.port, "ue", TOKEN, Limits(64 * MIB, 64 * MIB), bulk=bulk, peer="mec")
    return opened, await server.accept()


def activation(step: int, size: int) -> Activation:
    return Activation(assignment=0, step=step, train=True, tensors={"x": torch.full((size,), step, dtype=torch.uint8)})


def control(number: int) -> BeginUpdate:
    return BeginUpdate(number=number)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until ``condition`` holds."""
    while not condition():  # noqa: ASYNC110 (a connection has no event for what it has read)
        await asyncio.sleep(0)


async def exhaust(channel: SocketChannel) -> None:
    """Receive until there is nothing more to come."""
    while True:
        await channel.receive()


async def serves(server: Server) -> None:
    """Fails unless a new peer is served."""
    near, far = await pair(server)
    await near.send(activation(1, 1000))
    message = await far.receive()
    assert isinstance(message, Activation)
    await far.send(Gradient(assignment=0, step=1, tensors=message.tensors))
    assert isinstance(await near.receive(), Gradient)
    await near.close()


class Proxy:
    """Forwards TCP, byte for byte; ``gates[n]`` holds back what connection n brings towards the server."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.gates: list[asyncio.Event] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, HOST)
        yield server.sockets[0].getsockname()[1]
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = asyncio.Event()
        gate.set()
        self.gates.append(gate)
        there = await asyncio.open_connection(HOST, self.target)
        always = asyncio.Event()
        always.set()
        await asyncio.gather(self._pump(reader, there[1], gate), self._pump(there[0], writer, always))
        writer.close()
        there[1].close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event) -> None:
        while data := await reader.read(MIB):
            await gate.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def test_messages_with_tensors_travel_in_bulk_but_for_two_small_ones() -> None:
    having = {kind for kind in get_args(AnyMessage) if Tensors in get_type_hints(kind).values()}
    assert having - set(get_args(Bulk)) == {SplitCost, TaskReport}
    assert set(get_args(Bulk)) <= having


def test_reorder_gives_messages_in_order() -> None:
    reorder = Reorder()
    order = [3, 0, 2, 1, 5, 4]
    got = [[m.message.number for m in reorder.take(Received(n, control(n), 0))] for n in order]
    assert got == [[], [0], [], [1, 2, 3], [], [4, 5]]
    assert not reorder.gap


@pytest.mark.parametrize("sequence", [0, 2, 1 + MAX_EARLY, 2**32 - 1])
def test_reorder_refuses_a_number_used_before_or_far_ahead(sequence: int) -> None:
    reorder = Reorder()
    list(reorder.take(Received(0, control(0), 0)))
    list(reorder.take(Received(2, control(2), 0)))
    assert reorder.gap
    with pytest.raises(FrameError, match=f"got message {sequence}, expected 1"):
        list(reorder.take(Received(sequence, control(9), 0)))


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("bulk", [True, False])
@on_both_loops
async def test_bytes_written_are_the_bytes_that_the_kernel_saw_acknowledged(
    server: Server, bulk: bool, proxied: bool
) -> None:
    async with Proxy(server.port).listening() as port:
        near, far = await pair(server, port if proxied else None, bulk)
        for step, size in enumerate([0, 1, 1000, 100_000, 5 * MIB]):
            await near.send(activation(step, size))
            await near.send(control(step))
            await far.send(Gradient(assignment=0, step=step, tensors={"x": torch.zeros(size + 1)}))
            await far.send(control(0))
            for end in (near, near, far, far):
                await end.receive()
        await asyncio.gather(near.close(), far.close())
        for end, peer in ((near, "mec"), (far, "ue")):
            assert [(c.peer, c.kind) for c in end.connections] == [(peer, "websocket"), (peer, "bulk")][: 1 + bulk]
            for connection in end.connections:
                assert connection.written_bytes == connection.acked_bytes > 0
            frames = sum(traffic.header_bytes + traffic.payload_bytes for traffic in end.sent.values())
            written = sum(connection.written_bytes for connection in end.connections)
            assert frames < written < frames + 2000  # the handshakes and the framing


@on_both_loops
async def test_a_frame_costs_its_wire_size_in_bulk_and_the_framing_more_on_the_websocket(server: Server) -> None:
    near, far = await pair(server)
    for end, framing in ((near, 6), (far, 2)):  # a client masks its frames with 4 bytes
        websocket, bulk = end.connections
        for message, connection, more in (
            (activation(1, 999), bulk, 0),
            (control(1), websocket, framing),
        ):
            before = connection.written_bytes
            await end.send(message)
            assert connection.written_bytes - before == sum(wire_size(message)) + more
        assert end.sent["begin-update"].messages == 1
        assert (end.sent["activation"].header_bytes, 999) == wire_size(activation(1, 999))
        assert end.sent["activation"].payload_bytes == 999


@on_both_loops
async def test_order_holds_when_control_overtakes_a_tensor(server: Server) -> None:
    proxy = Proxy(server.port)
    async with proxy.listening() as port:
        near, far = await pair(server, port)
        proxy.gates[0].clear()  # the bulk connection is the one opened first
        sending = asyncio.create_task(near.send(activation(0, 4 * MIB)))
        await asyncio.sleep(0)
        await near.send(control(1))
        await until(lambda: far._reorder.gap)
        assert far._inbox.empty()
        proxy.gates[0].set()
        first, second = await far.receive(), await far.receive()
        assert isinstance(first, Activation)
        assert isinstance(second, BeginUpdate)
        await sending
        await near.close()


@on_both_loops
async def test_order_holds_in_both_directions_at_once(server: Server) -> None:
    async def converse(end: SocketChannel) -> None:
        rng = random.Random(1)
        messages = [
            activation(step, rng.choice([0, 10, 70_000, 3 * MIB])) if step % 3 == 0 else control(step)
            for step in range(60)
        ]

        async def send() -> None:
            for message in messages:
                await end.send(message)

        sending = asyncio.create_task(send())
        for sent in messages:
            got = await end.receive()
            assert type(got) is type(sent)
            if isinstance(got, Activation):
                assert torch.equal(got.tensors["x"], sent.tensors["x"])
            else:
                assert got.number == sent.number
        await sending

    near, far = await pair(server)
    await asyncio.gather(converse(near), converse(far))


@on_both_loops
async def test_a_tensor_may_be_changed_once_send_has_returned(server: Server) -> None:
    near, far = await pair(server)
    message = activation(7, 48 * MIB)
    assert near._bulk.counted.get_write_buffer_limits() == (0, 0)  # no rest is left to the transport
    await near.send(message)
    message.tensors["x"].zero_()
    got = await far.receive()
    assert bool((got.tensors["x"] == 7).all())
    assert near.wire_s == 0 < far.wire_s
    assert near.wire_bytes == 0
    assert 48 * MIB - JOINED_BYTES <= far.wire_bytes < sum(wire_size(message))  # all but what came at once at first
    assert near.serialise_s > 0


@on_both_loops
async def test_twenty_peers_at_once(server: Server) -> None:
    async def ask(server: Server, number: int) -> None:
        channel = await connect(HOST, server.port, f"ue{number}", TOKEN, Limits(payload_bytes=MIB))
        for step in range(5):
            await channel.send(activation(number, 50_000))
            await channel.send(control(step))
            answer = await channel.receive()
            assert answer.tensors["x"].tolist() == [number]
        await channel.close()

    async def answer(server: Server) -> None:
        channel = await server.accept()
        for _ in range(5):
            message = await channel.receive()
            assert channel.peer == f"ue{int(message.tensors['x'][0])}"
            await channel.send(Result(assignment=0, step=0, tensors={"x": message.tensors["x"][:1]}))
            assert isinstance(await channel.receive(), BeginUpdate)
        with pytest.raises(ChannelClosed, match=f"{channel.peer}: closed the connection"):
            await channel.receive()

    await asyncio.gather(*(ask(server, n) for n in range(20)), *(answer(server) for _ in range(20)))


@on_both_loops
async def test_close_sends_what_is_pending_and_ends_both_ends(server: Server) -> None:
    near, far = await pair(server)
    for step in range(4):
        await near.send(activation(step, 2 * MIB))
    await near.send(control(4))
    await asyncio.gather(near.close(), near.close())
    assert [type(await far.receive()) for _ in range(5)] == [Activation] * 4 + [BeginUpdate]
    for end, why in ((near, "mec: this end is closed"), (far, "ue: closed the connection")):
        for attempt in (end.receive, end.receive, lambda end=end: end.send(control(0))):
            with pytest.raises(ChannelClosed, match=why):
                await attempt()
        await end.close()


@on_both_loops
async def test_a_goodbye_waits_for_the_tensors_that_it_overtook(server: Server) -> None:
    proxy = Proxy(server.port)
    async with proxy.listening() as port:
        near, far = await pair(server, port)
        proxy.gates[0].clear()
        await near.send(activation(0, 1000))
        closing = asyncio.create_task(near.close())
        await until(lambda: far._websocket.closed)
        proxy.gates[0].set()
        assert isinstance(await far.receive(), Activation)
        with pytest.raises(ChannelClosed, match=r"ue: closed the connection$"):
            await far.receive()
        await closing


@pytest.mark.parametrize("bulk", [True, False])
@on_both_loops
async def test_a_wrong_token_is_refused_and_never_logged(
    server: Server, bulk: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for token in ("", "wrong", TOKEN + "x", TOKEN[:-1], "\u00fc"):
        with pytest.raises(ChannelClosed, match="mec: refused with status 401"):
            await connect(HOST, server.port, "ue", token, bulk=bulk, peer="mec")
    await serves(server)
    assert "wrong token" in caplog.text
    assert TOKEN not in caplog.text


@on_both_loops
async def test_nobody_listening_is_a_closed_channel(server: Server) -> None:
    with socket.socket() as free:
        free.bind((HOST, 0))
        with pytest.raises(ChannelClosed, match="mec: "):
            await connect(HOST, free.getsockname()[1], "ue", TOKEN, peer="mec")


@on_both_loops
async def test_strangers_do_not_disturb_the_others(server: Server) -> None:
    """Garbage, half a request, an unknown channel, and a connection that says nothing."""
    auth = f"Authorization: Bearer {TOKEN}\r\n"
    hails = [
        b"",
        b"\x00" * 5000,
        random.Random(0).randbytes(70_000),
        b"GET /bulk HTTP/1.1\r\nHost: x\r\n",
        f"GET /nowhere HTTP/1.1\r\nHost: x\r\n{auth}\r\n".encode(),
        f"GET /control?channel=unknown HTTP/1.1\r\nHost: x\r\n{auth}\r\n".encode(),
        f"GET /control HTTP/1.1\r\nHost: x\r\n{auth}\r\n".encode(),  # no WebSocket
        f"GET /bulk?channel=never-paired HTTP/1.1\r\nHost: x\r\n{auth}\r\n".encode(),
    ]

    near, far = await pair(server)
    strangers = []
    for hail in hails:
        _, writer = await asyncio.open_connection(HOST, server.port)
        strangers.append(writer)
        writer.write(hail)
        await serves(server)
    await near.send(control(1))
    assert isinstance(await far.receive(), BeginUpdate)
    for writer in strangers:
        writer.close()


@asynccontextmanager
async def rogue(server: Server) -> AsyncIterator[tuple[SocketChannel, asyncio.StreamWriter, Any]]:
    """A peer with the right token that writes what it likes: the server's end, its own two connections."""
    auth = {"Authorization": f"Bearer {TOKEN}"}
    lines = ["GET /bulk?node=rogue&channel=k HTTP/1.1", "Host: x", "Connection: Upgrade", "Upgrade: tcp"]
    lines += [f"{name}: {value}" for name, value in auth.items()]
    reader, writer = await asyncio.open_connection(HOST, server.port)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    async with aiohttp.ClientSession(headers=auth) as session:
        url = f"http://{HOST}:{server.port}/control?node=rogue&channel=k"
        websocket = await session.ws_connect(url)
        yield await server.accept(), writer, websocket
        writer.close()


FRAME = b"".join(encode(activation(0, 3000)))
OVERSIZE = FRAME[:9] + struct.pack("<Q", 2**60) + FRAME[17:]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that breaks off has no more to say."""
    monkeypatch.setattr(socket_channel, "LAST_WORD_S", 0.0)


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("over", ["bulk", "websocket"])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff" * 100, "frame version 255"),
        (random.Random(1).randbytes(5000), "frame version|header of|payload of"),
        (OVERSIZE, f"payload of {2**60} bytes"),
        (FRAME[:30] + b"?" + FRAME[31:], "checksum"),
        (FRAME + FRAME, "got message 0, expected 1"),
        (b"".join(encode(control(0), 2**31)), "got message 2147483648, expected 0"),
        (FRAME[:-1], "ended inside a frame"),
        (FRAME[:5], "ended inside a frame"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@on_both_loops
async def test_a_bad_frame_ends_its_own_channel_with_one_error(
    server: Server, over: str, data: bytes, why: str
) -> None:
    near, far = await pair(server)
    async with rogue(server) as (channel, writer, websocket):
        if over == "bulk":
            writer.write(data)
            writer.write_eof()
        else:
            await websocket.send_bytes(data)
        with pytest.raises(ChannelClosed, match=f"rogue: .*({why})"):
            await exhaust(channel)
        told = await websocket.receive()
        assert told.type is aiohttp.WSMsgType.CLOSE
        assert told.data == aiohttp.WSCloseCode.PROTOCOL_ERROR
    await near.send(control(1))
    assert isinstance(await far.receive(), BeginUpdate)
    await serves(server)


@pytest.mark.usefixtures("soon")
@pytest.mark.promise("Links", "a connection is reset inside a frame", "the channel ends with the reason")
@on_both_loops
async def test_a_reset_inside_a_frame_ends_the_channel(server: Server) -> None:
    async with rogue(server) as (channel, writer, _):
        writer.write(FRAME[:2000])
        await until(lambda: channel._bulk.received_bytes == 2000)
        linger = struct.pack("ii", 1, 0)  # close sends a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        with pytest.raises(ChannelClosed, match="rogue: lost the bulk connection"):
            await channel.receive()
    await serves(server)


@pytest.mark.promise("Links", "a connection ends without a goodbye", "the channel ends with the reason")
@on_both_loops
async def test_a_websocket_lost_without_a_goodbye_ends_the_channel(server: Server) -> None:
    async with rogue(server) as (channel, _, websocket):
        websocket._response.connection.transport.abort()
        with pytest.raises(ChannelClosed, match="rogue: lost the connection"):
            await channel.receive()
    await serves(server)


@on_both_loops
async def test_a_goodbye_before_all_messages_came_is_an_error(server: Server) -> None:
    async with rogue(server) as (channel, writer, websocket):
        await websocket.send_bytes(b"".join(encode(control(1), 1)))
        writer.write_eof()
        await websocket.close()
        with pytest.raises(ChannelClosed, match="before all messages arrived"):
            await channel.receive()


@on_both_loops
async def test_compression_is_not_agreed_to(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        auth = {"Authorization": f"Bearer {TOKEN}"}
        websocket = await session.ws_connect(f"http://{HOST}:{server.port}/control", headers=auth, compress=15)
        assert not websocket.compress
        await websocket.close()


@on_both_loops
async def test_text_is_no_frame(server: Server) -> None:
    async with rogue(server) as (channel, _, websocket):
        await websocket.send_str("hello")
        with pytest.raises(ChannelClosed, match="rogue: text where a frame was expected"):
            await channel.receive()


@on_both_loops
async def test_the_opener_learns_why_its_channel_ended(server: Server) -> None:
    server.limits.payload_bytes = 1000
    near, far = await pair(server)
    await near.send(activation(0, 1001))
    with pytest.raises(ChannelClosed, match="ue: payload of 1001 bytes, up to 1000"):
        await far.receive()
    with pytest.raises(ChannelClosed, match="mec: ended the connection: payload of 1001 bytes, up to 1000"):
        await near.receive()


@on_both_loops
async def test_why_a_peer_ends_counts_before_how_its_connection_broke(server: Server) -> None:
    near, far = await pair(server)
    near._bulk.counted.pause_reading()  # it learns of the reset by writing
    far._bulk.counted.pause_reading()
    sending = asyncio.create_task(near.send(activation(0, 48 * MIB)))
    await until(lambda: near._bulk.counted.get_write_buffer_size() > 0)
    await far._bulk.finish(graceful=False)
    await until(near._bulk.lost.done)
    await asyncio.sleep(0)
    assert not sending.done()  # what was under way is lost, and why is still to come
    far.fail("too much for this end")
    for attempt in (sending, near.receive()):
        with pytest.raises(ChannelClosed, match="mec: ended the connection: too much for this end"):
            await attempt


@on_both_loops
async def test_a_message_that_its_broken_connection_lost_is_no_clean_end(server: Server) -> None:
    near, far = await pair(server)
    near._bulk.counted.pause_reading()
    far._bulk.counted.pause_reading()
    sending = asyncio.create_task(near.send(activation(0, 48 * MIB)))
    await until(lambda: near._bulk.counted.get_write_buffer_size() > 0)
    await far._bulk.finish(graceful=False)
    await far.close()  # as if it had all
    for attempt in (sending, near.receive()):
        with pytest.raises(ChannelClosed, match="mec: lost the bulk connection"):
            await attempt


async def test_time_in_which_a_process_stands_still_is_no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes in each pause, as on a machine that is stopped and goes on; the peer is quick all the same."""
    minutes, pauses = itertools.count(), list[float]()

    async def stand_still(pause_s: float) -> None:
        pauses.append(pause_s)

    monkeypatch.setattr(time, "monotonic", lambda: 60.0 * next(minutes))
    monkeypatch.setattr(byte_counter.asyncio, "sleep", stand_still)
    await byte_counter.patiently(lambda: len(pauses) == 3, lambda: 0)
    assert len(pauses) == 3
    await byte_counter.patiently(lambda: False, lambda: min(len(pauses), 10), patience_s=2.0)
    assert 2.0 <= sum(pauses[10:]) < 2.1


@pytest.mark.parametrize("stays", ["near", "far"])
@on_both_loops
async def test_a_message_that_meets_a_goodbye_breaks_nothing(server: Server, stays: str) -> None:
    """The end that meant to send it ends in order too, and waits until its own goodbye is acknowledged."""
    near, far = await pair(server)
    staying, leaving = (near, far) if stays == "near" else (far, near)
    finish, goodbye_is_there = leaving._bulk.finish, asyncio.Event()

    async def finish_later(graceful: bool) -> None:
        await goodbye_is_there.wait()
        await finish(graceful)

    leaving._bulk.finish = finish_later
    closing = asyncio.create_task(leaving.close())
    await until(lambda: staying._websocket.closed)
    sending = asyncio.create_task(staying.send(control(0)))
    await asyncio.sleep(0)
    assert not sending.done()  # the channel ends with its tensors
    goodbye_is_there.set()
    with pytest.raises(ChannelClosed, match=r"closed the connection$"):
        await sending
    await asyncio.gather(closing, staying.close())
    for connection in (*near.connections, *far.connections):
        assert connection.written_bytes == connection.acked_bytes > 0


@on_both_loops
async def test_a_message_that_cannot_be_sent_leaves_the_channel_as_it_was(server: Server) -> None:
    near, far = await pair(server)
    with pytest.raises(FrameError):
        await near.send(Result(assignment=0, step=0, tensors={"x": torch.zeros(1, dtype=torch.float64)}))
    await near.send(control(1))
    assert isinstance(await far.receive(), BeginUpdate)


@on_both_loops
async def test_closing_the_server_closes_its_channels(server: Server) -> None:
    near, _ = await pair(server)
    await server.close()
    with pytest.raises(ChannelClosed, match="mec: closed the connection"):
        await near.receive()
