"""Clients of an edge server: who is here, who takes part in the round, who comes from and goes to other servers."""

from typing import NamedTuple

from nodes.errors import ProtocolError
from nodes.federated.schemes import ClientState
from nodes.spec.federation import Federation
from nodes.wire.messages import ChangeServer, Handover


class Departure(NamedTuple):
    """A client that belongs elsewhere from now on, what it is to be told, and what follows it, without tensors."""

    name: str
    change: ChangeServer
    handover: Handover


class Membership:
    """The clients of edge server ``edge``, by name; its first round is ``first_round``."""

    def __init__(self, federation: Federation, edge: int, first_round: int = 0) -> None:
        self._federation, self._edge, self._first_round = federation, edge, first_round
        names = federation.client_names
        self.numbers = {names[client]: client for client in federation.visitors(edge)}  # of all that ever come
        self.here: set[str] = set()  # who has a channel
        self.members: dict[str, ClientState] = {}  # of this round
        self.newcomers: dict[str, ClientState] = {}
        self.dead: set[int] = set()  # clients, as the runner said
        self._leaving = 0  # clients whose handover is not on its way yet
        self._sent_on: dict[int, ChangeServer] = {}  # by client, until its handover has come back
        self._came: dict[tuple[int, int], Handover] = {}  # by round and client

    def come(self, newcomer: ClientState, round_number: int) -> ChangeServer | None:
        """Where to send on a client which comes for a round (0 if new or back), if at all.

        One that is dead by the runner's word stays so: its hello may be late, and nobody tells of its death again.
        """
        change = self._sent_on.get(newcomer.index)
        return change if change and round_number < change.round else None

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
        if self._leaving or self._is_missing(round_number):
            return False
        self.admit(round_number)
        group = self._federation.group(self._edge, round_number)
        return bool(self.members) or (bool(self._federation.moves) and self.dead.issuperset(group))

    def _is_missing(self, round_number: int) -> bool:
        """Whether the round waits for a client or for its handover.

        The first round waits for all that live, a later one for those that their last server has sent.
        """
        known = self.dead.union(client.index for client in (*self.members.values(), *self.newcomers.values()))
        if round_number == self._first_round:
            return not known.issuperset(self._federation.group(self._edge))
        sent = {client: self._came.get((round_number, client)) for client in self._expected(round_number)}
        return any(one is None or (one.here and client not in known) for client, one in sent.items())

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
        for client, (edge, to_edge) in self._federation.changes(round_number).items():
            if edge == self._edge:
                name, to = self._federation.client_names[client], self._federation.edge_names[to_edge]
                here = any((self.members.pop(name, None), self.newcomers.pop(name, None)))
                self._leaving += 1
                self._sent_on[client] = ChangeServer(server=to, round=round_number)
                handover = Handover(round=round_number, client=client, to=to, here=here)
                released.append(Departure(name, self._sent_on[client], handover))
        return released

    def sent(self) -> None:
        """Note that the handover of a client that was released is on its way."""
        self._leaving -= 1

    def handed(self, handover: Handover) -> None:
        """Keep what a client's last server sent. Raises ProtocolError for a client that does not move here then."""
        key = handover.round, handover.client
        if key in self._came or handover.client not in self._expected(handover.round):
            raise ProtocolError(f"client {handover.client} does not come to {handover.to} in round {handover.round}")
        self._came[key] = handover
        self._sent_on.pop(handover.client, None)

    def take(self, round_number: int) -> list[Handover]:
        """What followed those that come for this round, in the clients' order."""
        return [self._came.pop((round_number, client)) for client in self._expected(round_number)]

    def _expected(self, round_number: int) -> list[int]:
        return [client for client, (_, to) in self._federation.changes(round_number).items() if to == self._edge]
