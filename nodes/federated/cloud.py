"""What does the cloud above several edge servers do? It averages their parts, as often as they ask for it.

What follows a client from one edge server to another goes through it.
"""

from nodes.errors import ProtocolError
from nodes.model.averaging import federated_average
from nodes.runtime.actions import Action, Compute, Direction, Finish, Send
from nodes.spec.federation import Federation
from nodes.wire.messages import AnyMessage, Assign, Handover, Shutdown, Weights


class Cloud:
    """The cloud above the edge servers of ``federation``, which all send what they have trained, and wait."""

    def __init__(self, federation: Federation) -> None:
        self._federation, self._edges = federation, federation.edge_names
        self._given: dict[str, Weights] = {}
        self._gone: set[str] = set()
        self._here: set[str] = set()
        self._handed: set[tuple[int, int]] = set()  # the rounds and clients of all handovers so far
        self._pending: list[Handover] = []  # to edge servers that are not here yet

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        """An edge server comes."""
        if peer not in self._edges:
            raise ProtocolError(f"{peer} is no edge server of this cloud")
        self._here.add(peer)
        waited: list[Action] = [Send(peer, handover) for handover in self._pending if handover.to == peer]
        self._pending = [handover for handover in self._pending if handover.to != peer]
        return waited

    def lost(self, direction: Direction, now: float) -> list[Action]:
        """Average what the others have sent."""
        self._gone.add(direction)
        self._given.pop(direction, None)
        if len(self._gone) == len(self._edges):
            return [Finish()]
        return self._average()

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Links are not measured here."""
        return []

    def woke(self, why: str, now: float) -> list[Action]:
        """Nothing is waited for."""
        return []

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take an edge server's part."""
        match message:
            case Weights() if sender in self._edges:
                self._given[sender] = message
                return self._average()
            case Handover() if sender in self._edges:
                return self._pass_on(sender, message)
            case Shutdown() if sender in self._edges:
                return self.lost(sender, now)
            case Assign() if sender == "runner":
                return []
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Send the average to all."""
        return [Send(edge, reply) for edge in self._edges if edge not in self._gone]

    def _pass_on(self, sender: str, handover: Handover) -> list[Action]:
        """Send on what follows a client, once, and if it moves so. Raises ProtocolError."""
        key = handover.assignment, handover.client
        way = [self._edges[edge] for edge in self._federation.changes(key[0]).get(key[1], ())]
        if key in self._handed or way != [sender, handover.to]:
            raise ProtocolError(f"client {key[1]} does not move from {sender} to {handover.to} in round {key[0]}")
        self._handed.add(key)
        if handover.to in self._here:
            return [Send(handover.to, handover)] if handover.to not in self._gone else []
        self._pending.append(handover)
        return []

    def _average(self) -> list[Action]:
        if not self._given or self._given.keys() | self._gone != set(self._edges):
            return []
        given, self._given = self._given, {}
        return [Compute("average", (tuple(given[edge] for edge in self._edges if edge in given),))]


class CloudWork:
    """The cloud's worker."""

    def average(self, given: tuple[Weights, ...]) -> Weights:
        """The mean by samples of what was trained; nothing where nobody trained."""
        trained = [one for one in given if one.samples]
        if not trained:
            return Weights(assignment=given[0].assignment, tensors={})
        try:
            tensors = federated_average([one.tensors for one in trained], [one.samples for one in trained])
        except (ValueError, RuntimeError) as error:
            raise ProtocolError(f"edge servers' parts cannot be averaged: {error}") from None
        return Weights(assignment=given[0].assignment, tensors=tensors)
