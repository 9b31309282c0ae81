"""Whom does an edge server wait for, and what comes after clients that change to it from another?

A client that moves is told so by the server that it leaves, which sends its new one a Handover. With that, and once the
client has come or is known not to, the round begins there. One that was away goes after what its servers have sent on,
from each to the next, however far these are: so it comes to the one that has what is its own, and may wait for it.
"""

from collections.abc import Collection

from nodes.federation import Federation
from nodes.messages import Handover, Peer, Route
from nodes.segment import ProtocolError


class Arrivals:
    """Those who come to edge server ``edge``."""

    def __init__(self, federation: Federation, edge: int) -> None:
        self._federation, self._edge = federation, edge
        self._came: dict[tuple[int, int], Handover] = {}  # by round and client
        self._sent_on: dict[int, Route] = {}  # by client, until what is its own has come back

    def came(self, handover: Handover) -> None:
        """Keep what a client's last server sent. Raises ProtocolError for a client that does not move here then."""
        key = handover.assignment, handover.client
        if key in self._came or handover.client not in self._expected(handover.assignment):
            raise ProtocolError(f"client {handover.client} does not come to {handover.to} in round {key[0]}")
        self._came[key] = handover
        self._sent_on.pop(handover.client, None)

    def send_on(self, client: int, round_number: int) -> Route:
        """What a client is told that leaves from this round on, now or when it comes."""
        to = self._federation.edge_names[self._federation.edge_of(client, round_number)]
        self._sent_on[client] = Route(nodes=(Peer(to),), assignment=round_number)
        return self._sent_on[client]

    def after(self, client: int, round_number: int) -> Route | None:
        """Where to send a client on that comes for this round; 0 for one that is new or was away."""
        route = self._sent_on.get(client)
        return route if route and round_number < route.assignment else None

    def missing(self, round_number: int, here: Collection[int], dead: Collection[int]) -> bool:
        """Whether the round is to wait, for a client or for what follows it, when those are here and those dead.

        All that live are waited for in the first round; later on those that their last server has sent.
        """
        if round_number == 0:
            return not set(self._federation.group(self._edge)) <= {*here, *dead}
        sent = {client: self._came.get((round_number, client)) for client in self._expected(round_number)}
        return any(one is None or (one.here and client not in {*here, *dead}) for client, one in sent.items())

    def take(self, round_number: int) -> list[Handover]:
        """What came for this round, in the clients' order."""
        return [self._came.pop((round_number, client)) for client in self._expected(round_number)]

    def _expected(self, round_number: int) -> list[int]:
        return [client for client, (_, to) in self._federation.changes(round_number).items() if to == self._edge]
