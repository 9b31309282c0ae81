"""Who is at an edge server of a federation, who takes part in its round, and who belongs elsewhere by now?"""

from collections.abc import Collection

from nodes.errors import ProtocolError
from nodes.federated.edge.round_stats import ClientState
from nodes.spec.federation import Federation
from nodes.wire.messages import Handover, Peer, Route


class Roster:
    """The clients of edge server ``edge``, by name."""

    def __init__(self, federation: Federation, edge: int) -> None:
        self._federation, self._edge = federation, edge
        names = federation.client_names
        self.numbers = {names[client]: client for client in federation.visitors(edge)}  # of all that ever come
        self.here: set[str] = set()  # who has a channel
        self.members: dict[str, ClientState] = {}  # of this round
        self.newcomers: dict[str, ClientState] = {}
        self.dead: set[int] = set()  # clients, by the runner's word
        self._arrivals = Arrivals(federation, edge)
        self._leaving = 0  # clients whose handover is not on its way yet

    def come(self, newcomer: ClientState, round_number: int) -> Route | None:
        """One that comes for this round (see ``Arrivals.after``) lives; where it is to go instead, if not here."""
        self.dead.discard(newcomer.index)
        return self._arrivals.after(newcomer.index, round_number)

    def gone(self, name: str) -> bool:
        """Strike out one whose channel has ended; whether it was a member."""
        self.here.discard(name)
        self.newcomers.pop(name, None)
        return self.members.pop(name, None) is not None

    def gathered(self, round_number: int) -> bool:
        """Admit all, if nobody is waited for any more. Not without a member, unless nobody is to come.

        Where no client moves, there is always one to come: whoever is away may be back.
        """
        here = {one.index for one in (*self.members.values(), *self.newcomers.values())}
        if self._leaving or self._arrivals.missing(round_number, here, self.dead):
            return False
        self.admit(round_number)
        group = self._federation.group(self._edge, round_number)
        return bool(self.members) or (bool(self._federation.moves) and self.dead.issuperset(group))

    def admit(self, round_number: int) -> None:
        """Let those take part in the round who are here and belong here."""
        everyone = self.members | self.newcomers
        group = self._federation.group(self._edge, round_number)
        self.members = {
            name: everyone.pop(name) for name, client in self.numbers.items() if name in everyone and client in group
        }
        self.newcomers = everyone

    def release(self, round_number: int) -> list[tuple[str, bool, Route]]:
        """Who belongs elsewhere from this round on, whether it is here, and where it is to go."""
        released = []
        for client, (edge, _) in self._federation.changes(round_number).items():
            if edge == self._edge:
                name = self._federation.client_names[client]
                here = name in self.members or name in self.newcomers
                self.members.pop(name, None)
                self.newcomers.pop(name, None)
                self._leaving += 1
                released.append((name, here, self._arrivals.send_on(client, round_number)))
        return released

    def sent(self) -> None:
        """What is one's own that was released is on its way."""
        self._leaving -= 1

    def handed(self, handover: Handover) -> None:
        """Keep what follows one that comes. Raises ProtocolError."""
        self._arrivals.came(handover)

    def take(self, round_number: int) -> list[Handover]:
        """What followed those that come for this round, in their order."""
        return self._arrivals.take(round_number)


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
