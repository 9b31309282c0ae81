"""Clients of an edge server: who is here, who takes part in the round, who comes from and goes to other servers."""

from collections.abc import Collection
from typing import NamedTuple

from nodes.errors import ProtocolError
from nodes.federated.schemes import ClientState
from nodes.spec.federation import Federation
from nodes.wire.messages import ChangeServer, Handover


class Departure(NamedTuple):
    """A client that belongs elsewhere from now on; ``here``: it has a channel, so it can be sent there."""

    client: int
    name: str
    here: bool
    change: ChangeServer


class Membership:
    """The clients of edge server ``edge``, by name."""

    def __init__(self, federation: Federation, edge: int) -> None:
        self._federation, self._edge = federation, edge
        names = federation.client_names
        self.numbers = {names[client]: client for client in federation.visitors(edge)}  # of all that ever come
        self.here: set[str] = set()  # who has a channel
        self.members: dict[str, ClientState] = {}  # of this round
        self.newcomers: dict[str, ClientState] = {}
        self.dead: set[int] = set()  # clients, as the runner said
        self._arrivals = Arrivals(federation, edge)
        self._leaving = 0  # clients whose handover is not on its way yet

    def come(self, newcomer: ClientState, round_number: int) -> ChangeServer | None:
        """Note that a client which comes for this round lives; where it is to go instead, if not here."""
        self.dead.discard(newcomer.index)
        return self._arrivals.after(newcomer.index, round_number)

    def gone(self, name: str) -> ClientState | None:
        """Strike out a client whose channel has ended, and return it if it was a member."""
        self.here.discard(name)
        self.newcomers.pop(name, None)
        return self.members.pop(name, None)

    def gathered(self, round_number: int) -> bool:
        """Admit all if the round waits for nobody any more; whether it can begin.

        It cannot without a member, unless nobody is to come. Where no client moves, there is always one to come:
        whoever is away may be back.
        """
        here = {one.index for one in (*self.members.values(), *self.newcomers.values())}
        if self._leaving or self._arrivals.missing(round_number, here, self.dead):
            return False
        self.admit(round_number)
        group = self._federation.group(self._edge, round_number)
        return bool(self.members) or (bool(self._federation.moves) and self.dead.issuperset(group))

    def admit(self, round_number: int) -> None:
        """Make those members of the round who are here and belong here."""
        everyone = self.members | self.newcomers
        group = self._federation.group(self._edge, round_number)
        self.members = {
            name: everyone.pop(name) for name, client in self.numbers.items() if name in everyone and client in group
        }
        self.newcomers = everyone

    def release(self, round_number: int) -> list[Departure]:
        """Strike out the clients that belong elsewhere from this round on."""
        released = []
        for client, (edge, _) in self._federation.changes(round_number).items():
            if edge == self._edge:
                name = self._federation.client_names[client]
                here = name in self.members or name in self.newcomers
                self.members.pop(name, None)
                self.newcomers.pop(name, None)
                self._leaving += 1
                released.append(Departure(client, name, here, self._arrivals.send_on(client, round_number)))
        return released

    def sent(self) -> None:
        """Note that the handover of a client that was released is on its way."""
        self._leaving -= 1

    def handed(self, handover: Handover) -> None:
        """Keep what follows a client that comes. Raises ProtocolError."""
        self._arrivals.came(handover)

    def take(self, round_number: int) -> list[Handover]:
        """What followed those that come for this round, in the clients' order."""
        return self._arrivals.take(round_number)


class Arrivals:
    """Clients that come to edge server ``edge`` from others, and what follows them."""

    def __init__(self, federation: Federation, edge: int) -> None:
        self._federation, self._edge = federation, edge
        self._came: dict[tuple[int, int], Handover] = {}  # by round and client
        self._sent_on: dict[int, ChangeServer] = {}  # by client, until its handover has come back

    def came(self, handover: Handover) -> None:
        """Keep what a client's last server sent. Raises ProtocolError for a client that does not move here then."""
        key = handover.round, handover.client
        if key in self._came or handover.client not in self._expected(handover.round):
            raise ProtocolError(f"client {handover.client} does not come to {handover.to} in round {handover.round}")
        self._came[key] = handover
        self._sent_on.pop(handover.client, None)

    def send_on(self, client: int, round_number: int) -> ChangeServer:
        """What a client that leaves from this round on is to be told, now or when it comes."""
        to = self._federation.edge_names[self._federation.edge_of(client, round_number)]
        self._sent_on[client] = ChangeServer(server=to, round=round_number)
        return self._sent_on[client]

    def after(self, client: int, round_number: int) -> ChangeServer | None:
        """Where to send a client on that comes for this round; 0 for one that is new or was away."""
        change = self._sent_on.get(client)
        return change if change and round_number < change.round else None

    def missing(self, round_number: int, here: Collection[int], dead: Collection[int]) -> bool:
        """Whether the round waits for a client or for its handover, when those are here and those dead.

        The first round waits for all that live, a later one for those that their last server has sent.
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
