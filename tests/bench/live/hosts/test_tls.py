"""Channels over mutual TLS: the same messages and counts, and nobody who is not who they say."""

import asyncio
import shutil
import stat
from pathlib import Path

import pytest
import torch
import uvloop

from bench.live.hosts.certificates import make_authority, make_leaf
from bench.live.hosts.control import HostControl
from bench.live.processes import RunError
from bench.suite.document import InputError
from nodes.process.host_control import HOST_PATH, Host
from nodes.spec.credentials import Credentials
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import Limits
from nodes.wire.listener import Listener
from nodes.wire.messages import RUNNER, Heartbeat, Parameters
from nodes.wire.tls import tls_of
from nodes.wire.transport import connect

KEYS = Credentials.of("correct horse battery staple", "mec")
LIMITS = Limits(payload_bytes=1 << 24)
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no command openssl")


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    for authority in ("ours", "theirs"):
        make_authority(folder / authority)
        for name in ("ue", "mec", RUNNER):
            make_leaf(folder / authority, name, ["mec.lan", "10.0.0.3"])
    return folder / "ours"


def run(test: object) -> None:
    """As nodes run: on uvloop."""
    uvloop.run(asyncio.wait_for(test, 60))


async def listening(certs: Path) -> Listener:
    listener = Listener("mec", KEYS, "127.0.0.1", 0, tls_of(certs / "mec"))
    listener.limits.payload_bytes = LIMITS.payload_bytes
    listener.handlers[HOST_PATH] = Host().attend
    await listener.start()
    return listener


def tensors(megabytes: int, step: int) -> Parameters:
    values = torch.full((megabytes << 18,), float(step))
    return Parameters(assignment=step, start=0, stop=1, tensors={"x": values})


def test_large_tensors_cross_both_ways_and_all_written_bytes_are_acknowledged(certs):
    async def test() -> None:
        listener = await listening(certs)
        near = await connect(
            "127.0.0.1", listener.port, "ue/1", KEYS.token("ue/1"), LIMITS, peer="mec", tls=tls_of(certs / "ue")
        )
        far = await listener.neighbour("1")

        async def send(channel, count: int) -> None:
            for step in range(count):
                await channel.send(tensors(4, step))
                await channel.send(Heartbeat(node=str(step)))

        async def receive(channel, count: int) -> None:
            for step in range(count):
                assert torch.equal((await channel.receive()).tensors["x"], torch.full((1 << 20,), float(step)))
                assert (await channel.receive()).node == str(step)

        await asyncio.gather(send(near, 5), receive(far, 5), send(far, 3), receive(near, 3))
        for step in range(3):  # one way, with nothing coming back
            await asyncio.wait_for(near.send(tensors(4, step)), 10)
        for step in range(3):
            assert (await far.receive()).assignment == step
        await near.send(Heartbeat(node="last"))
        await near.close()
        assert (await far.receive()).node == "last"
        with pytest.raises(ChannelClosed, match="closed the connection"):
            await far.receive()
        await far.close()
        for channel, count in ((near, 8), (far, 3)):
            assert {one.kind for one in channel.connections} == {"websocket", "bulk"}
            for one in channel.connections:
                assert one.written_bytes == one.acked_bytes
                assert 0 < one.tls_bytes < 0.01 * one.written_bytes + 10_000
            assert sum(one.written_bytes for one in channel.connections) > count * (4 << 20)
        await listener.close()

    began = asyncio.new_event_loop().time()
    run(test())
    assert asyncio.new_event_loop().time() - began < 20  # no wait for a patience of 10 s each


@pytest.mark.parametrize(
    ("own", "peer", "told"),
    [
        ("ours/ue", "cloud", "certificate"),  # the server is mec
        ("theirs/ue", "mec", "certificate"),  # of another authority
        ("ours/mec", "mec", "refused with status 403"),  # says ue, and is mec
        (None, "mec", "refused|disconnected|reset|parse|400"),  # without TLS
    ],
)
def test_who_is_not_by_certificate_who_they_say_is_refused(own, peer, told, certs):
    async def test() -> None:
        listener = await listening(certs)
        tls = own and tls_of(certs.parent / own)
        with pytest.raises(ChannelClosed, match=f"(?i){told}"):
            await connect("127.0.0.1", listener.port, "ue/1", KEYS.token("ue/1"), peer=peer, tls=tls)
        await listener.close()

    run(test())


def test_a_runner_is_held_to_its_certificate_and_the_token_is_needed_too(certs):
    async def test() -> None:
        listener = await listening(certs)
        where = ("mec", ("127.0.0.1", listener.port))
        with pytest.raises(RunError, match="the certificate here is not that of 'runner'"):
            await HostControl.open(*where, KEYS.token(RUNNER), tls_of(certs / "ue"))
        with pytest.raises(RunError, match="the token is another one"):
            await HostControl.open(*where, "another one that is long", tls_of(certs / RUNNER))
        with pytest.raises(RunError, match=r"cloud at .* is not to be trusted"):
            await HostControl.open("cloud", where[1], KEYS.token(RUNNER), tls_of(certs / RUNNER))
        control = await HostControl.open(*where, KEYS.token(RUNNER), tls_of(certs / RUNNER))
        assert abs((await control.clock())[0]) < 0.1
        await control.close()
        await listener.close()

    run(test())


def test_keys_are_private_and_nothing_is_overwritten(certs, tmp_path):
    for key in certs.rglob("*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    for again in (lambda: make_authority(certs), lambda: make_leaf(certs, "ue", [])):
        with pytest.raises(InputError, match="is there already"):
            again()
    with pytest.raises(InputError, match=r"ca\.pem: is not there"):
        make_leaf(tmp_path, "ue", [])
    with pytest.raises(InputError, match="--host: 'a,DNS:b' is neither"):
        make_leaf(certs, "fresh", ["a,DNS:b"])
    with pytest.raises(InputError, match=r"NAME: '\.\./x' is not a name"):
        make_leaf(certs, "../x", [])


def test_unusable_files_are_named(certs, tmp_path):
    with pytest.raises(ValueError, match=r"node\.pem: No such file"):
        tls_of(certs)
    shutil.copytree(certs / "ue", tmp_path / "ue")
    (tmp_path / "ue" / "node.key").write_bytes((certs / "mec" / "node.key").read_bytes())
    with pytest.raises(ValueError, match="ue: its certificates cannot be used"):
        tls_of(tmp_path / "ue")
