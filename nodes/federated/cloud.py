"""Role and worker of the cloud above several edge servers: averages their parts, passes on what follows clients."""

from typing import Any

from nodes.errors import ProtocolError, unexpected
from nodes.federated.calls import AverageEdges
from nodes.model.averaging import federated_average
from nodes.model.boundary import Tensors
from nodes.runtime.actions import Action, Direction, Finish, Role, Send
from nodes.spec.federation import Federation
from nodes.wire.messages import AnyMessage, Begin, EdgeUpdate, GlobalModel, Handover, Replaced, Shutdown


class Cloud(Role):
    """The cloud above the edge servers of ``federation``, which all send what they have trained, and wait."""

    def __init__(self, federation: Federation) -> None:
        self._federation, self._edges = federation, federation.edge_names
        self._updates: dict[str, EdgeUpdate] = {}
        self._gone: set[str] = set()
        self._here: set[str] = set()
        self._handed: set[tuple[int, int]] = set()  # rounds and clients of all handovers so far
        self._pending: list[Handover] = []  # to edge servers that are not here yet

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        if peer not in self._edges:
            raise ProtocolError(f"{peer} is no edge server of this cloud")
        self._here.add(peer)
        waited: list[Action] = [Send(peer, handover) for handover in self._pending if handover.to == peer]
        self._pending = [handover for handover in self._pending if handover.to != peer]
        return waited

    def lost(self, direction: Direction, now: float) -> list[Action]:
        self._gone.add(direction)
        self._updates.pop(direction, None)
        if len(self._gone) == len(self._edges):
            return [Finish()]
        return self._average()

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        match message:
            case EdgeUpdate() if sender in self._edges:
                self._updates[sender] = message
                return self._average()
            case Handover() if sender in self._edges:
                return self._pass_on(sender, message)
            case Shutdown() | Replaced() if sender in self._edges:
                return self.lost(sender, now)
            case Begin() if sender == "runner":
                return []
        raise unexpected(message, sender)

    def computed(self, reply: Any, now: float) -> list[Action]:
        return [Send(edge, reply) for edge in self._edges if edge not in self._gone]

    def _pass_on(self, sender: str, handover: Handover) -> list[Action]:
        """Send on what follows a client, once, and only as the federation's moves say. Raises ProtocolError."""
        key = handover.round, handover.client
        way = [self._edges[edge] for edge in self._federation.changes(handover.round).get(handover.client, ())]
        if key in self._handed or way != [sender, handover.to]:
            raise ProtocolError(
                f"client {handover.client} does not move from {sender} to {handover.to} in round {handover.round}"
            )
        self._handed.add(key)
        if handover.to in self._here:
            return [Send(handover.to, handover)] if handover.to not in self._gone else []
        self._pending.append(handover)
        return []

    def _average(self) -> list[Action]:
        if not self._updates or self._updates.keys() | self._gone != set(self._edges):
            return []
        updates, self._updates = self._updates, {}
        return [AverageEdges(tuple(updates[edge] for edge in self._edges if edge in updates))]


class CloudWorker:
    """The cloud's worker."""

    def average(self, updates: tuple[EdgeUpdate, ...]) -> GlobalModel:
        """The mean by samples of what was trained; empty where nobody trained."""
        round_number = updates[0].round
        trained = [update for update in updates if update.samples]
        if not trained:
            return GlobalModel(round=round_number)
        samples = [update.samples for update in trained]
        return GlobalModel(
            round=round_number,
            server=_mean([update.server for update in trained], samples),
            client=_mean([update.client for update in trained], samples),
        )


def _mean(states: list[Tensors], samples: list[int]) -> Tensors:
    try:
        return federated_average(states, samples)
    except (ValueError, RuntimeError) as error:
        raise ProtocolError(f"edge servers' parts cannot be averaged: {error}") from None
