"""Role and worker of the cloud above several edge servers: aggregates their parts, passes on what follows clients."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nodes.errors import ProtocolError, unexpected
from nodes.federated.aggregation import Aggregation
from nodes.federated.keeping import RoundKeeping
from nodes.federated.schemes import Update, scheme_of
from nodes.runtime.actions import Action, Compute, Direction, Finish, Role, Send
from nodes.spec.federation import CLOUD, Federation
from nodes.training.keeping.state import plain_attributes, set_attributes
from nodes.wire.messages import AnyMessage, Begin, EdgeUpdate, GlobalModel, Handover, Replaced, Shutdown


class Cloud(Role):
    """The cloud above the edge servers of ``federation``, which all send what they have trained, and wait."""

    def __init__(self, federation: Federation) -> None:
        self._federation, self._edges = federation, federation.edge_names
        self._keeping = RoundKeeping(federation, CLOUD)
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
        return self._aggregate()

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        match message:
            case EdgeUpdate() if sender in self._edges:
                self._updates[sender] = message
                return self._aggregate()
            case Handover() if sender in self._edges:
                return self._pass_on(sender, message)
            case Shutdown() | Replaced() if sender in self._edges:
                return self.lost(sender, now)
            case Begin() if sender == "runner":
                return []
        raise unexpected(message, sender)

    def computed(self, reply: Any, now: float) -> list[Action]:
        assert isinstance(reply, GlobalModel)
        return [
            *(Send(edge, reply) for edge in self._edges if edge not in self._gone),
            *self._keeping.after(reply.round),
        ]

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

    def _aggregate(self) -> list[Action]:
        if not self._updates or self._updates.keys() | self._gone != set(self._edges):
            return []
        updates, self._updates = self._updates, {}
        edges = tuple(number for number, edge in enumerate(self._edges) if edge in updates)
        return [AggregateEdges(tuple(updates[self._edges[number]] for number in edges), edges)]


class CloudWorker:
    """The cloud's worker."""

    def __init__(self, federation: Federation) -> None:
        scheme = self._scheme = scheme_of(federation)
        self._aggregate_clients = Aggregation(federation, scheme, "aggregate_edges", 0)
        self._aggregate_servers = Aggregation(federation, scheme, "aggregate_edges", 1)

    def aggregate(self, updates: Sequence[EdgeUpdate], edges: Sequence[int]) -> GlobalModel:
        """Aggregate what was trained; empty where nobody trained. Raises NodeError."""
        trained = [(edge, update) for edge, update in zip(edges, updates, strict=True) if update.samples]
        servers = [Update(edge, update.samples, update.server) for edge, update in trained if update.server]
        clients = [Update(edge, update.samples, update.client) for edge, update in trained if update.client]
        return GlobalModel(
            round=updates[0].round,
            server=self._aggregate_servers(servers) if servers else {},
            client=self._aggregate_clients(clients) if clients else {},
        )

    def everything(self) -> dict[str, Any]:
        """All that ``go_on`` needs."""
        averages = [self._aggregate_clients.last, self._aggregate_servers.last]
        return {"averages": averages, "scheme": plain_attributes(self._scheme)}

    def go_on(self, saved: dict[str, Any]) -> None:
        """Continue from ``everything`` of the cloud's worker."""
        self._aggregate_clients.last, self._aggregate_servers.last = saved["averages"]
        set_attributes(self._scheme, saved["scheme"])


@dataclass(frozen=True)
class AggregateEdges(Compute):
    """Aggregate the parts of several edge servers."""

    updates: tuple[EdgeUpdate, ...]
    edges: tuple[int, ...]

    def run(self, worker: CloudWorker) -> GlobalModel:
        return worker.aggregate(self.updates, self.edges)
