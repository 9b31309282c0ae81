"""A node that is enlisted with servers that are not its own says so, by its name."""

import pytest
from federations import make_federation

from nodes.federation import Move
from nodes.messages import Enlist, Peer
from nodes.serve_federation import _servers

EDGE1, EDGE2, CLOUD = Peer("edge1", "here", 1), Peer("edge2", "here", 2), Peer("cloud", "here", 3)


def told(name: str, *servers: Peer, edges: int = 2, moves: tuple[Move, ...] = (Move(0, 1, 1),)) -> Enlist:
    return Enlist(
        federation=make_federation("psl", edges=edges, moves=moves if edges > 1 else ()),
        names=(name,),
        servers={name: servers} if servers else {},
    )


@pytest.mark.parametrize(
    ("name", "servers", "edges"),
    [
        ("client1", (EDGE1, EDGE2), 2),
        ("client2", (EDGE1,), 2),
        ("edge1", (CLOUD,), 2),
        ("edge1", (), 1),
        ("cloud", (), 2),
    ],
)
def test_servers_are_those_of_the_federation(name, servers, edges):
    assert _servers(told(name, *servers, edges=edges), name) == servers


@pytest.mark.parametrize(
    ("name", "servers", "edges"),
    [
        ("client1", (), 2),
        ("client1", (EDGE1,), 2),
        ("client1", (EDGE2, EDGE1), 2),
        ("edge1", (CLOUD, CLOUD), 2),
        ("edge1", (), 2),
        ("edge1", (CLOUD,), 1),
        ("cloud", (EDGE1,), 2),
        ("client9", (EDGE1,), 2),
    ],
)
def test_other_servers_are_refused_by_the_name_of_the_node(name, servers, edges):
    with pytest.raises(ValueError, match=f"^{name}: "):
        _servers(told(name, *servers, edges=edges), name)
