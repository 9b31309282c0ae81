"""Specification of a federation: many clients and their servers that train one network.

Clients belong to edge servers, in equal groups or as ``moves`` say; several edge servers belong to one cloud.
"""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from nodes.spec.job import Device, Job, Timing

CLOUD = "cloud"
LONGEST_S = 1e9  # of an absence
MOST_NODES, MOST_ROUNDS, MOST_CHANGES = 10_000, 1_000_000, 100_000  # of a message that was received
ALPHA, SHARDS = 0.5, 2  # if not given


class Partition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training pictures of each client.

    Equal random parts, shares of each class by a Dirichlet distribution of ``alpha``, or ``shards`` runs of the
    pictures sorted by class (McMahan et al.'s pathological split).
    """

    kind: Literal["iid", "dirichlet", "shards"] = "iid"
    alpha: Annotated[float, msgspec.Meta(gt=0)] = ALPHA
    shards: Annotated[int, msgspec.Meta(ge=1)] = SHARDS

    def __post_init__(self) -> None:
        if self.alpha != ALPHA and self.kind != "dirichlet":
            raise ValueError(f"alpha {self.alpha}: of kind dirichlet alone, and this is {self.kind}")
        if self.shards != SHARDS and self.kind != "shards":
            raise ValueError(f"shards {self.shards}: of kind shards alone, and this is {self.kind}")


class SchemeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scheme of a federation: a built-in's name or ``module:callable``, and its options."""

    name: str = "psl"
    options: dict[str, Any] = {}


class Absence(NamedTuple):
    """A client that drops out once it has begun so many training steps, and comes back ``for_s`` later."""

    client: int
    after_steps: int
    for_s: float


class ClientMove(NamedTuple):
    """A client belongs to edge server ``to_edge`` (from 0) after ``after_rounds`` rounds; after 0 it begins there."""

    client: int
    after_rounds: int
    to_edge: int


class KeptRounds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where all nodes keep their state of a round's end, and the round after which they go on; None: they begin."""

    folder: str
    round: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Federation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clients`` train the network of ``job`` by ``scheme`` for ``rounds`` of ``local_steps`` each."""

    job: Job  # two nodes, a client and an edge server, and the stage of their link; ``epochs``, ``steps`` are not used
    scheme: SchemeSpec  # how the clients train together (``nodes.federated.schemes``)
    clients: Annotated[int, msgspec.Meta(ge=1, le=MOST_NODES)] = 5
    edges: Annotated[int, msgspec.Meta(ge=1, le=MOST_NODES)] = 1
    rounds: Annotated[int, msgspec.Meta(ge=1, le=MOST_ROUNDS)] = 1
    # A client's training steps in a round; None: as many as the mean client's pictures fill. A client goes through its
    # pictures again and again.
    local_steps: int | None = None
    partition: Partition = Partition()
    # Seconds that the training of a round may take, and its tests, before it goes on without those that are late; None:
    # it waits. A round that fewer than ``least_clients`` of an edge server have trained in ends the run.
    round_deadline_s: float | None = None
    least_clients: int = 1
    participants: int | None = None  # clients of an edge server that train in a round, drawn at random; None: all
    # Batch norm of clients' parts that the scheme shares, and of the servers' copies: averaged or handed on with the
    # rest, or kept by each client.
    batch_norm: Literal["shared", "local"] = "shared"
    server_lr: float | None = None  # learning rate of the servers' parts; None: that of the job's optimizer
    cloud_every: int = 1  # rounds after which the edge servers' parts are aggregated at the cloud
    test_every: int = 1  # rounds after which clients test, and after the last; 0: never
    slowdowns: tuple[float, ...] = (1.0,)  # of the clients, from the first again where there are more of them
    client_timing: Timing | None = None
    server_timing: Timing | None = None
    absences: Annotated[tuple[Absence, ...], msgspec.Meta(max_length=MOST_CHANGES)] = ()
    # Clients that change their edge server between two rounds.
    moves: Annotated[tuple[ClientMove, ...], msgspec.Meta(max_length=MOST_CHANGES)] = ()
    folder: str | None = None  # for the clients' states after each step, from which a killed client goes on
    keep: KeptRounds | None = None  # of a live run whose nodes may all start again

    def __post_init__(self) -> None:
        if len(self.job.nodes) != 2 or self.job.microbatches != 1 or self.job.members or self.job.moves is not None:
            raise ValueError("job: a client and a server, no microbatches, no members, no moves")
        if self.job.distillation is not None:
            raise ValueError("job: the clients of a federation have no teacher; give no distillation")
        if self.edges < 1 or min(self.rounds, self.cloud_every) < 1:
            raise ValueError("edges: from 1 to as many as clients; rounds, cloud_every: from 1 on")
        self._check_moves()
        if len({*self.places(0), *(move.to_edge for move in self.moves)}) < self.edges:
            raise ValueError("edges: from 1 to as many as clients, or as many as clients come to by their moves")
        if self.participants is not None and self.participants < 1:
            raise ValueError(f"participants {self.participants}: from 1 on, or none for all")
        self._check_deadline()
        if self.server_lr is not None and not self.server_lr > 0:
            raise ValueError(f"server_lr {self.server_lr}: expected a rate above 0, or none for that of the job")
        if self.local_steps is not None and self.local_steps < 1:
            raise ValueError("local_steps: from 1 on, or none for as many as the mean client's pictures fill")
        for absence in self.absences:
            if not 0 <= absence.client < self.clients:
                raise ValueError(f"absences: there is no client {absence.client}, they are 0 to {self.clients - 1}")
            if absence.after_steps < 0 or not 0 < absence.for_s <= LONGEST_S:
                raise ValueError(f"absences: {list(absence)}: client, steps from 0 on, up to {LONGEST_S:g} s above 0")
        if any(slowdown < 1 for slowdown in self.slowdowns) or not self.slowdowns:
            raise ValueError("slowdowns: one at least, none below 1")

    def _check_deadline(self) -> None:
        if self.round_deadline_s is not None and not 0 < self.round_deadline_s <= LONGEST_S:
            raise ValueError(f"round_deadline_s {self.round_deadline_s}: above 0, up to {LONGEST_S:g}, or none to wait")
        if self.round_deadline_s is not None and self.moves:
            raise ValueError("round_deadline_s: not with moves, as clients that move are waited for")
        groups = [len(self.group(edge)) for edge in range(self.edges)]
        most = min(self.participants or self.clients, *(groups if not self.moves else ()), self.clients)
        if not 1 <= self.least_clients <= most:
            raise ValueError(f"least_clients {self.least_clients}: from 1 to {most}, who train at one edge server")

    def _check_moves(self) -> None:
        at = {client: client * self.edges // self.clients for client in range(self.clients)}
        seen = set()
        for move in self._ordered():
            said = f"moves: {list(move)}: client, rounds before, edge server"
            if move.client not in at or not 0 <= move.to_edge < self.edges:
                raise ValueError(f"{said}; clients are 0 to {self.clients - 1}, edge servers 0 to {self.edges - 1}")
            if not 0 <= move.after_rounds < self.rounds:
                raise ValueError(f"{said}; there are rounds 0 to {self.rounds - 1} to begin at another")
            if at[move.client] == move.to_edge or move[:2] in seen:
                raise ValueError(f"{said}; the client is at {at[move.client]} then, and moves once a round at most")
            at[move.client] = move.to_edge
            seen.add(move[:2])

    def _ordered(self) -> list[ClientMove]:
        return sorted(self.moves, key=lambda move: move.after_rounds)

    @property
    def client_names(self) -> tuple[str, ...]:
        return tuple(f"client{number + 1}" for number in range(self.clients))

    @property
    def edge_names(self) -> tuple[str, ...]:
        return tuple(f"edge{number + 1}" for number in range(self.edges))

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes: the cloud where there are several edge servers, these, and the clients."""
        return (*((CLOUD,) if self.edges > 1 else ()), *self.edge_names, *self.client_names)

    def servers_of(self, name: str) -> tuple[str, ...]:
        """The servers that node ``name`` ever belongs to, in that order. Raises ValueError for another name."""
        if name in self.client_names:
            return tuple(self.edge_names[edge] for edge in self.visits(self.client_names.index(name)))
        if name not in (CLOUD, *self.edge_names):
            raise ValueError(f"{name}: no node of this federation")
        return (CLOUD,) if name != CLOUD and self.edges > 1 else ()

    def places(self, round_number: int) -> list[int]:
        """The edge server of each client in a round: in groups as equal as they can be, but for moves."""
        at = [client * self.edges // self.clients for client in range(self.clients)]
        for move in self._ordered():
            if move.after_rounds <= round_number:
                at[move.client] = move.to_edge
        return at

    def edge_of(self, client: int, round_number: int = 0) -> int:
        return self.places(round_number)[client]

    def group(self, edge: int, round_number: int = 0) -> tuple[int, ...]:
        return tuple(client for client, at in enumerate(self.places(round_number)) if at == edge)

    def visits(self, client: int) -> tuple[int, ...]:
        later = [move.to_edge for move in self._ordered() if move.client == client]
        return tuple(dict.fromkeys([self.edge_of(client), *later]))

    def visitors(self, edge: int) -> tuple[int, ...]:
        movers = {move.client for move in self.moves if move.to_edge == edge}
        return tuple(sorted(movers.union(self.group(edge))))

    def changes(self, round_number: int) -> dict[int, tuple[int, int]]:
        """The clients that begin a round at another edge server than the last one: from which, to which."""
        if not self.moves or not 0 < round_number < self.rounds:
            return {}
        ways = zip(self.places(round_number - 1), self.places(round_number), strict=True)
        return {client: way for client, way in enumerate(ways) if way[0] != way[1]}

    def slowdown(self, client: int) -> float:
        return self.slowdowns[client % len(self.slowdowns)]

    def device(self, client: int) -> Device:
        slowdown = self.slowdown(client)
        if self.client_timing is None:
            return Device(slowdown=slowdown)
        return Device(timing=self.client_timing.times(slowdown))
