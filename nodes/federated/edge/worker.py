"""What does an edge server of a federation compute? Its part of the network, once or for each client, and averages."""

from collections.abc import Sequence

import msgspec

from nodes.errors import ProtocolError
from nodes.federated.client_worker import job_of
from nodes.federated.edge.joint_step import JointSegment
from nodes.model.averaging import federated_average
from nodes.model.boundary import Tensors
from nodes.model.layer_range import layer_range
from nodes.spec.federation import Federation
from nodes.wire.messages import Activation, AnyMessage, Gradient, Handover, Weights

SERVER, CLIENT = "server.", "client."  # before names of tensors on the way between edge and cloud


class EdgeWork:
    """The worker of edge server ``edge``. Where clients have the whole network it averages and no more.

    Copies are made at the start for all clients that ever come here.
    """

    def __init__(self, federation: Federation, edge: int) -> None:
        self._job, self._statistics = job_of(federation), federation.statistics
        self._segments: dict[int, JointSegment] = {}  # by client; all the same one, but for copies
        self._returned: dict[int, Gradient] = {}
        self._round = 0
        self._copies = federation.rules.server == "copies"
        if federation.rules.server != "none":
            self._segments = self._parts(federation.visitors(edge), self._copies)
        self._distinct = list({id(segment): segment for segment in self._segments.values()}.values())
        if self._distinct and layer_range(self._job.splits, 1, self._distinct[0].layers).relays:
            raise ValueError("all layers are the clients'; only fl needs no server part")

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

    def forward(self, message: Activation, client: int) -> AnyMessage:
        """Take one client's task through the server's part."""
        self._begin(message.assignment)
        return self._segments[client].forward(message)

    def joint(
        self,
        messages: Sequence[Activation],
        clients: Sequence[int],
        weights: Sequence[float],
        fades: Sequence[float],
        positions: int,
    ) -> Gradient:
        """Take one step on the tasks of several ``clients``; what there is to tell of it. See ``returned``."""
        self._begin(messages[0].assignment)
        came = self._distinct[0].joint(messages, weights, fades, positions)
        self._returned = dict(zip(clients, came.gradients, strict=True))
        return Gradient(assignment=messages[0].assignment, step=messages[0].step, metrics=came.told, tensors={})

    def returned(self, client: int) -> Gradient:
        """What the last joint step has for ``client``."""
        return self._returned.pop(client)

    def average(self, given: Sequence[Weights], clients: Sequence[int]) -> Weights:
        """Average the clients' parts, and their copies of the server's; the clients'. Raises ProtocolError."""
        samples = [one.samples for one in given]
        if len(self._distinct) > 1:
            self._adopt(_mean([self._segments[client].state() for client in clients], samples))
        return Weights(assignment=given[0].assignment, tensors=_mean([one.tensors for one in given], samples))

    def give(self, round_number: int, samples: int, part: Weights | None) -> Weights:
        """What the cloud averages with that of other edge servers: its part, and the clients' if they share one.

        Nothing, if it was trained with no ``samples``.
        """
        if not samples:
            return Weights(assignment=round_number, tensors={})
        server = self._distinct[0].state() if self._distinct else {}
        tensors = {f"{SERVER}{name}": tensor for name, tensor in server.items()}
        tensors |= {f"{CLIENT}{name}": tensor for name, tensor in (part.tensors if part else {}).items()}
        return Weights(assignment=round_number, samples=samples, tensors=tensors)

    def take(self, message: Weights) -> Weights:
        """Go on from what the cloud has averaged, if anything; the clients' part of it."""
        if self._distinct and message.tensors:
            self._adopt(_named(message.tensors, SERVER))
        return Weights(assignment=message.assignment, tensors=_named(message.tensors, CLIENT))

    def leave(self, round_number: int, client: int, to: str, here: bool) -> Handover:
        """What goes after a client to edge server ``to``, with which it trains from this round on: its copy, if any."""
        tensors = self._segments[client].training_state() if self._copies else {}
        return Handover(assignment=round_number, client=client, to=to, here=here, tensors=tensors)

    def settle(self, handover: Handover) -> Handover:
        """Go on from the copy that came after a client. Raises ProtocolError if it does not fit."""
        if self._copies:
            self._segments[handover.client].settle(handover.tensors)
        elif handover.tensors:
            raise ProtocolError(f"{sorted(handover.tensors)[:3]} came after client {handover.client} for nothing")
        return msgspec.structs.replace(handover, tensors={})

    def _adopt(self, tensors: Tensors) -> None:
        for segment in self._distinct:
            segment.adopt(tensors)

    def _begin(self, round_number: int) -> None:
        if round_number > self._round:  # clients that do not wait for each other may be in earlier ones
            self._round = round_number
            for segment in self._distinct:
                segment.begin_epoch(round_number)


def _named(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _mean(states: Sequence[Tensors], samples: Sequence[int]) -> Tensors:
    try:
        return federated_average(states, samples)
    except (ValueError, RuntimeError) as error:
        raise ProtocolError(f"clients' parts cannot be averaged: {error}") from None
