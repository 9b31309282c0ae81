"""Base of schemes: how the clients of a federation train one network together.

A scheme declares which parts of the model there are and answers questions through named hooks. Every node makes the
scheme for itself from its name and options, so nothing but these travels. Hooks of three nodes:

- an edge server's decisions: plain functions of the ``RoundState``, which they read and do not change;
- aggregation, in the worker of an edge server or of the cloud, on tensors;
- a client's training step, in its worker.

An edge server and its worker use two instances of the scheme.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
from torch import nn

from nodes.errors import NodeError
from nodes.model.averaging import federated_average
from nodes.model.boundary import Tensors
from nodes.seeds import derive
from nodes.spec.federation import Federation
from nodes.wire.messages import Activation, ClientModel

ServerParts = Literal["none", "one", "joint", "copies"]
ClientParts = Literal["kept", "handed on", "aggregated"]
Statistics = Literal["running", "batch"]
Through = Literal["averaged", "one", "each", "cut"]
LOTS = 1 << 34  # separates the draws of a round's clients from all others
Phase = Literal["resting", "idle", "training", "complete"]


class ClientState(msgspec.Struct, eq=False):
    """A client at an edge server; a client that returns gets a new state.

    Attributes:
        index: Number of the client in the federation, from 0.
        samples: Its training images.
        phase: In this round: not selected, selected and not begun, training, or done with its steps.
        served: Its training steps of this round that the server has computed or is computing.
        total: The same, of all rounds.
        completed: The last round whose steps it has done; None before the first.
        tested: The last round after which it has tested.
    """

    name: str
    index: int
    samples: int
    phase: Phase = "idle"
    served: int = 0
    total: int = 0
    completed: int | None = None
    tested: int | None = None
    reported: bool = False  # that its steps of this round are done
    seen: int = 0  # joint steps when it was served last, or when it came
    holds: ClientModel | None = None  # the clients' part that it was given last, or gave
    current: bool = False  # it came with the part that its last server shared


class RoundState(msgspec.Struct, eq=False):
    """The present round at an edge server, for the hooks to read.

    Attributes:
        number: Number of the round, from 0.
        steps: Training steps that each client takes in a round.
        expected: Clients that ever belong to the edge server, those that are away included.
        clients: Clients that were selected and are here, by their index.
        tasks: Tasks that wait for the server, by their client, in order of arrival.
        served: Clients' training steps of this round that the server has computed or is computing.
        updates: Joint steps that the server has begun, in all rounds.
    """

    number: int = 0
    steps: int = 0
    expected: int = 0
    clients: list[ClientState] = []
    tasks: dict[ClientState, Activation] = {}
    served: int = 0
    updates: int = 0

    def begin(self, present: Sequence[ClientState]) -> None:
        """Begin a round, for which no client of ``present`` is selected yet."""
        self.tasks, self.served, self.clients = {}, 0, []
        for client in present:
            client.served, client.reported, client.phase = 0, False, "resting"

    def of_phase(self, phase: Phase) -> list[ClientState]:
        """The selected clients that are in ``phase``, by their index."""
        return [client for client in self.clients if client.phase == phase]

    def staleness(self, client: ClientState) -> int:
        """Joint steps without ``client`` since it was served last, or since it came."""
        return self.updates - client.seen


class Update(NamedTuple):
    """A part to aggregate: parameters and buffers by name, trained by ``client`` on ``samples`` images in a round.

    At the cloud ``client`` is the number of the edge server, ``samples`` those that its clients trained on in all
    rounds since the last average.
    """

    client: int
    samples: int
    state: Tensors


class Scheme:
    """Synchronous parallel split learning with kept client parts, and the base of all other schemes.

    A subclass takes its options as keyword arguments of its constructor, raises ValueError for unusable ones, and
    overrides what differs.

    Attributes:
        server_parts: "none": clients have the whole network; "one": one part takes one task after the other; "joint":
            one part takes a step on the tasks of several clients as one batch; "copies": one part for each client,
            aggregated at the end of a round.
        client_parts: "kept": each client keeps its own; "handed on": a client begins with the part of the client that
            completed before it; "aggregated": at the end of a round all that trained become one.
        waits: Whether clients wait for each other at the end of a round. If not, a round only counts steps, clients go
            on at once, and they test after the last round.
        through: What the averaged last-layer gradients are back-propagated through: the "averaged" smashed data of the
            clients, in an extra forward pass; that of "one" client, drawn by shares; that of "each" client; or "cut",
            the gradients are averaged at the cut instead.
        broadcast: With "each", whether the clients' gradients at the cut are averaged and sent once for all.
        statistics: With "averaged", what batch norm uses in the extra pass: "running" statistics or those of the
            "batch".
    """

    server_parts: ServerParts = "joint"
    client_parts: ClientParts = "kept"
    waits: bool = True
    through: Through = "averaged"
    broadcast: bool = False
    statistics: Statistics = "running"

    # Decisions of an edge server

    def select(self, round: RoundState, present: Sequence[ClientState]) -> Sequence[ClientState]:
        """Choose the clients that train in a round, when it begins. Not asked where clients do not wait.

        Args:
            round: The round that begins; it has no clients yet.
            present: Clients that are here, by their index.

        Returns:
            Some of ``present``. The others rest: they are tested, and nothing else.
        """
        return present

    def start(self, round: RoundState) -> Sequence[ClientState]:
        """Choose the clients that begin to train now: when the round begins, and after every event in it.

        Returns:
            Some of those that are "idle".
        """
        return round.of_phase("idle")

    def due(self, round: RoundState) -> Sequence[ClientState]:
        """Choose the tasks that the server computes now, after every event in a round.

        Not asked while a joint step is under way or when the round is over.

        Returns:
            Some of the clients in ``round.tasks``, in the order of computation; with "joint" parts they take one step
            together. By default a joint step waits for all clients with steps left; other parts wait for nobody.
        """
        if self.server_parts != "joint":
            return list(round.tasks)
        active = [client for client in round.clients if client.served < round.steps]
        return active if active and round.tasks.keys() == set(active) else []

    def weights(self, round: RoundState, clients: Sequence[ClientState]) -> Sequence[float]:
        """Weigh the clients of a joint step.

        Args:
            round: The round, in which ``clients`` do not count as served yet.
            clients: The clients of the step.

        Returns:
            A factor above 0 for each client's mean loss; the default is its share of their images, which sums to 1. The
            gradient that returns to a client is that of its own mean loss, whatever its weight.
        """
        total = sum(client.samples for client in clients)
        return [client.samples / total for client in clients]

    def batch_size(self, batch_size: int) -> int:
        """Give the samples of a client's batch, at least 1, where the job names ``batch_size``; by default as many."""
        return batch_size

    def averaged_positions(self, batch_size: int) -> int:
        """Give the batch positions, from the first on, whose last-layer gradients a joint step averages (EPSL)."""
        return 0

    def hands_part(self, round: RoundState, client: ClientState) -> bool:
        """Tell whether ``client``, which begins to train or is tested, gets the clients' part that is shared."""
        return True

    def is_over(self, round: RoundState) -> bool:
        """Tell whether the round ends now, without the clients that still train; asked after every event in it.

        A round in which all clients are complete ends anyway. The work of a client that still trains is dropped, except
        where clients do not wait: it counts in the next round.

        Returns:
            By default False; where clients do not wait, whether they took as many steps as all of them would have.
        """
        return not self.waits and round.served >= round.steps * round.expected

    # Aggregation, in a worker

    def aggregate_clients(self, updates: Sequence[Update], previous: Tensors) -> Tensors:
        """Make one of the clients' parts, at the end of a round.

        Args:
            updates: Parts of the clients that completed the round, by their index.
            previous: The part that they began with; {} where the scheme does not override this hook.

        Returns:
            Tensors of the same names, shapes and dtypes. By default their mean by samples (federated averaging).
        """
        return mean(updates)

    def aggregate_servers(self, updates: Sequence[Update], previous: Tensors) -> Tensors:
        """Make one of the server's copies, as ``aggregate_clients`` does of the clients' parts."""
        return mean(updates)

    def aggregate_edges(self, updates: Sequence[Update], previous: Tensors) -> Tensors:
        """Make one of the edge servers' parts at the cloud; called for server parts and shared client parts apart."""
        return mean(updates)

    # A client's training step, in its worker

    def adjust_gradients(self, parameters: Mapping[str, nn.Parameter], start: Tensors) -> None:
        """Change the gradients of a client's part in place, before its optimizer's step.

        Args:
            parameters: Parameters by name, with their gradients.
            start: Their values when the client began the round.
        """


def mean(updates: Sequence[Update]) -> Tensors:
    """The mean of ``updates`` by samples."""
    return federated_average([update.state for update in updates], [update.samples for update in updates])


class Decisions:
    """The hooks of ``scheme`` that choose and weigh clients. They raise NodeError for what cannot be."""

    def __init__(self, scheme: Scheme, federation: Federation) -> None:
        self.scheme, self._name = scheme, federation.scheme.name
        self._seed, self._participants = federation.job.seed, federation.participants

    def select(self, round_state: RoundState, present: Sequence[ClientState]) -> list[ClientState]:
        """Those of the scheme, out of a sample of those that are ``present`` if the federation has one."""
        by_lot = sorted(present, key=lambda client: derive(self._seed, LOTS, round_state.number, client.index))
        sample = sorted(by_lot[: self._participants], key=lambda client: client.index)
        chosen = self._checked("select", self.scheme.select(round_state, sample), sample)
        return sorted(chosen, key=lambda client: client.index)

    def start(self, round_state: RoundState) -> list[ClientState]:
        return self._checked("start", self.scheme.start(round_state), round_state.of_phase("idle"))

    def due(self, round_state: RoundState) -> list[ClientState]:
        return self._checked("due", self.scheme.due(round_state), round_state.tasks)

    def weights(self, round_state: RoundState, clients: Sequence[ClientState]) -> tuple[float, ...]:
        weights = tuple(float(weight) for weight in self.scheme.weights(round_state, clients))
        if len(weights) != len(clients) or not all(0 < weight < float("inf") for weight in weights):
            raise self._error("weights", f"got {list(weights)}, expected {len(clients)} numbers above 0")
        return weights

    def is_over(self, round_state: RoundState) -> bool:
        """Whether the scheme ends the round, or all are complete whom it waits for."""
        complete = self.scheme.waits and all(client.phase == "complete" for client in round_state.clients)
        return complete or self.scheme.is_over(round_state)

    def check_goes_on(self, round_state: RoundState) -> None:
        """Raise NodeError if no selected client will send anything before the server does."""
        clients = round_state.clients
        if not clients or any(one.phase == "training" and one not in round_state.tasks for one in clients):
            return
        waiting = [client.name for client in round_state.tasks]
        idle = [client.name for client in round_state.of_phase("idle")]
        raise self._error("due", f"round {round_state.number} cannot go on: tasks of {waiting} wait, {idle} are idle")

    def _checked(self, hook: str, chosen: Sequence[ClientState], allowed: Iterable[ClientState]) -> list[ClientState]:
        allowed, listed = list(allowed), list(chosen)
        if len(set(listed)) != len(listed) or not set(listed) <= set(allowed):
            names = [[getattr(client, "name", client) for client in clients] for clients in (listed, allowed)]
            raise self._error(hook, f"chose {names[0]}, expected some of {names[1]}")
        return listed

    def _error(self, hook: str, text: str) -> NodeError:
        return NodeError(f"{hook} of scheme {self._name}: {text}")
