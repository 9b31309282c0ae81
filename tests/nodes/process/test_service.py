"""A node as a service: its health, its end during a job, and its wait for the first runner without torch."""

import asyncio
import json
import socket
import threading

import aiohttp
import pytest

from nodes.process.serve import serve
from nodes.process.standby import await_runner
from nodes.spec.credentials import Credentials
from nodes.wire.channel import ChannelClosed
from nodes.wire.messages import RUNNER, AnyMessage, Begin, Failure, Heartbeat
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import connect

KEYS = Credentials.of("correct horse battery staple", "mec")


async def health(port: int) -> dict[str, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/health") as answer:
        return await answer.json()


async def test_health_is_told_without_a_token_and_a_runner_is_told_of_the_end_of_its_job():
    listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve("mec", KEYS, "127.0.0.1", 0, listens.set_result))
    port = await listens
    assert await health(port) == {"node": "mec", "state": "idle"}
    runner = await connect("127.0.0.1", port, f"{RUNNER}/1", KEYS.token(f"{RUNNER}/1"), bulk=False)
    while await health(port) == {"node": "mec", "state": "idle"}:
        pass  # until the node has taken the runner's connection
    assert await health(port) == {"node": "mec", "state": "busy"}
    serving.cancel()  # as SIGTERM does
    told = await runner.receive()
    assert isinstance(told, Failure)
    assert (told.node, told.reason) == ("mec", "the node was told to end")
    with pytest.raises(ChannelClosed):
        await runner.receive()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await runner.close()


async def last_word(runner: SocketChannel) -> AnyMessage:
    """What the node says beside its heartbeats."""
    while isinstance(told := await runner.receive(), Heartbeat):
        pass
    return told


@pytest.mark.promise(
    "Time", "the runner of a `bench node` is silent (0.5 s here, 60 s there)", "the next one is served"
)
@pytest.mark.parametrize("beats", [False, True])
async def test_a_runner_that_is_silent_is_given_up_and_the_node_is_free(beats: bool) -> None:
    listens: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve("mec", KEYS, "127.0.0.1", 0, listens.set_result, silence_s=0.5))
    port = await listens
    first = await connect("127.0.0.1", port, f"{RUNNER}/1", KEYS.token(f"{RUNNER}/1"), bulk=False)
    for _ in range(20 if beats else 0):  # each well within the time
        await first.send(Heartbeat(node=RUNNER))
        await asyncio.sleep(0.05)
    with pytest.raises(ChannelClosed, match=r"the runner has not been heard of for 0\.5 s"):
        await last_word(first)
    second = await connect("127.0.0.1", port, f"{RUNNER}/2", KEYS.token(f"{RUNNER}/2"), bulk=False)
    await second.send(Begin())
    assert isinstance(await last_word(second), Failure)  # it serves the second one, which begins with the wrong message
    await second.close()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await first.close()


def test_on_standby_a_node_answers_health_checks_until_a_runner_comes():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        waiting = threading.Thread(target=await_runner, args=(listening, "mec"), daemon=True)
        waiting.start()
        where = listening.getsockname()
        socket.create_connection(where).close()  # a probe of the port alone
        for _ in range(2):
            with socket.create_connection(where) as probe:
                probe.sendall(b"GET /health HTTP/1.1\r\nHost: mec\r\n\r\n")
                head, _, body = probe.makefile("rb").read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            assert json.loads(body) == {"node": "mec", "state": "idle"}
        assert waiting.is_alive()
        with socket.create_connection(where) as runner:
            runner.sendall(b"GET /host?node=runner HTTP/1.1\r\n\r\n")
            waiting.join(10)
        assert not waiting.is_alive()
