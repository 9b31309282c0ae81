"""Worker of an edge server: its part of the network, once or for each client, and aggregation."""

from collections.abc import Sequence

from nodes.errors import ProtocolError
from nodes.federated.aggregation import Aggregation
from nodes.federated.calls import Adopted, JointSummary
from nodes.federated.client_worker import job_of
from nodes.federated.edge.joint_step import JointSegment
from nodes.federated.schemes import Update, scheme_of
from nodes.model.boundary import Tensors
from nodes.model.layer_range import layer_range
from nodes.spec.federation import Federation
from nodes.training.calls import TaskMessage
from nodes.wire.messages import (
    Activation,
    ClientModel,
    ClientUpdate,
    EdgeUpdate,
    GlobalModel,
    Gradient,
    Handover,
)


class EdgeWorker:
    """The worker of edge server ``edge``. Where clients have the whole network it aggregates and no more.

    Copies are made at the start for all clients that ever come here.
    """

    def __init__(self, federation: Federation, edge: int) -> None:
        scheme = scheme_of(federation)
        self._job, self._statistics = job_of(federation), scheme.statistics
        self._segments: dict[int, JointSegment] = {}  # by client; all the same one, but for copies
        self._returned: dict[int, Gradient] = {}
        self._round = 0
        self._aggregate_clients = Aggregation(federation, scheme, "aggregate_clients", 0)
        self._aggregate_servers = Aggregation(federation, scheme, "aggregate_servers", 1)
        self._copies = scheme.server_parts == "copies"
        if scheme.server_parts != "none":
            self._segments = self._parts(federation.visitors(edge), self._copies)
        self._distinct = list({id(segment): segment for segment in self._segments.values()}.values())
        if self._distinct and layer_range(self._job.splits, 1, self._distinct[0].layers).relays:
            raise ValueError(
                f"scheme {federation.scheme.name}: all layers are the clients', none is left for the server"
            )

    def _parts(self, clients: Sequence[int], copies: bool) -> dict[int, JointSegment]:
        """The part that takes each client's tasks: one for all of them, or copies."""
        if copies:
            return {client: JointSegment(self._job, 1) for client in clients}
        return dict.fromkeys(clients, JointSegment(self._job, 1, statistics=self._statistics))

    @property
    def layers(self) -> int:
        """How many layers it holds."""
        return len(self._distinct[0].names) if self._distinct else 0

    @property
    def steps(self) -> int:
        """How many steps its optimizers have taken."""
        return sum(segment.steps for segment in self._distinct)

    def forward(self, message: Activation, client: int) -> TaskMessage:
        """Run one client's task through the server's part."""
        self._begin(message.assignment)
        return self._segments[client].forward(message)

    def joint(
        self,
        messages: Sequence[Activation],
        clients: Sequence[int],
        weights: Sequence[float],
        positions: int,
    ) -> JointSummary:
        """Take one step on the tasks of several ``clients``. See ``returned``."""
        self._begin(messages[0].assignment)
        gradients, summary = self._distinct[0].joint(messages, weights, positions)
        self._returned = dict(zip(clients, gradients, strict=True))
        return summary

    def returned(self, client: int) -> Gradient:
        """What the last joint step returns to ``client``."""
        return self._returned.pop(client)

    def aggregate(
        self, round_number: int, updates: Sequence[ClientUpdate], clients: Sequence[int], samples: Sequence[int]
    ) -> ClientModel:
        """Aggregate the copies of the server's part of ``clients``, and their parts if they share them.

        Raises NodeError.
        """
        if self._copies:
            copies = zip(clients, samples, strict=True)
            self._adopt(
                self._aggregate_servers(
                    [Update(client, count, self._segments[client].state()) for client, count in copies]
                )
            )
        parts = [
            Update(client, update.samples, update.tensors) for client, update in zip(clients, updates, strict=False)
        ]
        return ClientModel(round=round_number, tensors=self._aggregate_clients(parts) if parts else {})

    def give(self, round_number: int, samples: int, client_model: ClientModel | None) -> EdgeUpdate:
        """What the cloud aggregates with that of other edge servers; empty if it was trained with no ``samples``."""
        if not samples:
            return EdgeUpdate(round=round_number, samples=0)
        return EdgeUpdate(
            round=round_number,
            samples=samples,
            server=self._distinct[0].state() if self._distinct else {},
            client=client_model.tensors if client_model else {},
        )

    def adopt(self, model: GlobalModel) -> ClientModel:
        """Go on from what the cloud aggregated, if anything; the clients' part of it."""
        if self._distinct and (model.server or model.client):
            self._adopt(model.server)
            self._aggregate_servers.last = model.server
        self._aggregate_clients.last = model.client or self._aggregate_clients.last
        return ClientModel(round=model.round, tensors=model.client)

    def hand_over(self, round_number: int, client: int, to: str, here: bool) -> Handover:
        """What follows a client to edge server ``to``, where it trains from this round on: its copy, if any."""
        tensors = self._segments[client].training_state() if self._copies else {}
        return Handover(round=round_number, client=client, to=to, here=here, tensors=tensors)

    def adopt_handover(self, handover: Handover) -> Adopted:
        """Go on from the copy that followed a client. Raises ProtocolError if it does not fit."""
        if self._copies:
            self._segments[handover.client].load_training_state(handover.tensors)
        elif handover.tensors:
            raise ProtocolError(
                f"client {handover.client}: unexpected tensors in the handover: {sorted(handover.tensors)[:3]} "
                "(the scheme keeps no server copy for each client)"
            )
        return Adopted()

    def _adopt(self, tensors: Tensors) -> None:
        for segment in self._distinct:
            segment.adopt(tensors)

    def _begin(self, round_number: int) -> None:
        if round_number > self._round:  # clients that do not wait for each other may be in earlier ones
            self._round = round_number
            for segment in self._distinct:
                segment.begin_epoch(round_number)
