"""Nodes that are enlisted: they refuse servers that are not their own, and report their end."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from federations import make_federation

from nodes.federated.process import servers_of
from nodes.process.serve import _do_job
from nodes.runtime.report import NodeReport, ReportParts
from nodes.spec.credentials import Credentials
from nodes.spec.federation import ClientMove
from nodes.wire.channel import MemoryChannel, memory_pair
from nodes.wire.codec import Limits
from nodes.wire.listener import Listener, peer_id
from nodes.wire.messages import AnyMessage, Begin, ClientFinished, ClientHello, Enlist, Peer, Ready, Report, Shutdown
from nodes.wire.transport import connect

EDGE1, EDGE2, CLOUD = Peer("edge1", "here", 1), Peer("edge2", "here", 2), Peer("cloud", "here", 3)


def enlisted(
    name: str, *servers: Peer, edges: int = 2, moves: tuple[ClientMove, ...] = (ClientMove(0, 1, 1),)
) -> Enlist:
    return Enlist(
        federation=make_federation("psl", edges=edges, moves=moves if edges > 1 else ()),
        names=(name,),
        servers={name: servers} if servers else {},
    )


@pytest.mark.parametrize(
    ("name", "servers", "edges", "fits"),
    [
        ("client1", (EDGE1, EDGE2), 2, True),
        ("client1", (EDGE2, EDGE1), 2, False),
        ("client1", (EDGE1,), 2, False),
        ("client1", (), 2, False),
        ("client2", (EDGE1,), 2, True),
        ("client9", (EDGE1,), 2, False),
        ("edge1", (CLOUD,), 2, True),
        ("edge1", (CLOUD, CLOUD), 2, False),
        ("edge1", (), 2, False),
        ("edge1", (), 1, True),
        ("edge1", (CLOUD,), 1, False),
        ("cloud", (), 2, True),
        ("cloud", (EDGE1,), 2, False),
    ],
)
def test_servers_are_those_of_the_federation_or_are_refused_by_the_name_of_the_node(name, servers, edges, fits):
    enlist = enlisted(name, *servers, edges=edges)
    if fits:
        assert servers_of(enlist, name) == servers
    else:
        with pytest.raises(ValueError, match=f"^{name}: "):
            servers_of(enlist, name)


class Enlisted:
    """The nodes of an enlistment, at work in this process, and their runner's end."""

    def __init__(self, enlist: Enlist) -> None:
        self.home = Listener("process", Credentials.of("secret", "process"), "127.0.0.1", 0)
        self.runner: MemoryChannel
        control, self.runner = memory_pair("process", "runner")
        self.listening = asyncio.ensure_future(self.home.start())
        self.stack = AsyncExitStack()
        self.done = asyncio.ensure_future(self._do_job(control, enlist))

    async def _do_job(self, control: MemoryChannel, enlist: Enlist) -> list[NodeReport] | None:
        await self.runner.send(enlist)
        (report,) = await _do_job(self.home, control, "run", [], self.stack)
        assert isinstance(report, Report)
        return ReportParts(enlist.names).take(report)

    async def heard(self, kind: type[AnyMessage]) -> AnyMessage:
        """The next message, which is of that kind."""
        receiving = asyncio.ensure_future(self.runner.receive())
        await asyncio.wait({receiving, self.done}, return_when=asyncio.FIRST_COMPLETED)
        assert receiving.done() or self.done.result() is None
        message = await receiving
        assert isinstance(message, kind)
        return message

    async def end(self) -> None:
        await self.stack.aclose()
        await self.home.close()


async def test_the_end_of_one_client_is_told_while_another_of_its_process_goes_on():
    servers = [Listener(name, Credentials.of("secret", name), "127.0.0.1", 0) for name in ("edge1", "edge2")]
    peers = []
    for number, server in enumerate(servers):
        await server.start()
        peers.append(Peer(f"edge{number + 1}", "127.0.0.1", server.port))
    federation = make_federation("psl", clients=2, edges=2, moves=(ClientMove(0, 1, 1),))
    visited = {"client1": tuple(peers), "client2": (peers[1],)}
    crew = Enlisted(Enlist(federation=federation, names=("client1", "client2"), servers=visited))
    await crew.heard(Ready)
    await crew.runner.send(Begin())
    one, other = [await server.neighbour("run") for server in servers]
    await one.send(Shutdown())
    assert (await crew.heard(ClientFinished)).client == "client1"
    assert not crew.done.done()
    await other.send(Shutdown())
    assert (await crew.heard(ClientFinished)).client == "client2"
    assert [node.name for node in await crew.done] == ["client1", "client2"]
    await crew.end()
    for server in servers:
        await server.close()


async def test_one_that_comes_to_an_edge_server_that_has_ended_is_told_so():
    edge = Enlisted(Enlist(federation=make_federation("psl"), names=("edge1",)))
    await edge.listening
    await edge.heard(Ready)
    await edge.runner.send(Shutdown())
    await edge.done
    client = peer_id("client1", "run")
    token = Credentials.of("secret", "process").token(client)
    came = await connect("127.0.0.1", edge.home.port, client, token, Limits())
    await came.send(ClientHello(round=0, begun=0, samples=20, mean_samples=20.0))
    assert isinstance(await came.receive(), Shutdown)
    await came.close()
    await edge.end()
