"""Migration of the layers that edge servers store, as clients move between the edges.

Split Learning in 6G Edge Networks, section VI-C, leaves this open. Of the layers behind the devices' fixed cut, the
edge whose copy a client trains has the first ones, the cloud the others. With several clients, each round ends with
the average of the copies, in the cloud. Strategies:

- ``migrate``: an edge at which clients arrive takes a copy if that saves more over their stay than moving it costs
  (HiveMind, Eq. 8); otherwise their data is forwarded to a copy elsewhere, or to the cloud. Unused copies are dropped.
- ``stay``: copies stay where clients began; smashed data is forwarded to them.
- ``replicate``: every edge stores all that fits, and all copies are synchronised.

A layer's state comes from the nearest server that is up to date with it: one cost per layer for the search of
``placement``, hence without the delay of parameter messages, milliseconds beside seconds. n clients that use a link or
an edge's processor get an n-th each; the cloud is not shared.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from itertools import accumulate
from math import inf
from typing import Literal, NamedTuple

from nodes.splitting.placement import search_within_storage
from nodes.splitting.search import transfer_s

MigrationStrategy = Literal["migrate", "stay", "replicate"]
CLOUD = "cloud"


class BackhaulLink(NamedTuple):
    """A link with the same rate and delay in both directions."""

    rate_bps: float
    delay_s: float


class Model(NamedTuple):
    """The L layers behind the devices' cut, for one client's batch; gradients have the size of their values."""

    boundary_bytes: Sequence[int]  # [L+1]; 0 is the device's cut, and nothing crosses at L
    held_bytes: Sequence[int]  # [L] stored and moved: parameters, buffers and optimizer state
    parameter_bytes: Sequence[int]  # [L] averaged


@dataclass(frozen=True)
class EdgeNetwork:
    """Edges and a cloud; each edge has its own link to the cloud."""

    edges: tuple[str, ...]
    links: Mapping[tuple[str, str], BackhaulLink]  # each once, by its two ends
    layer_s: Mapping[str, Sequence[float]]  # [L] by server: a batch forward and backward
    storage_bytes: float  # of each edge; the cloud holds all

    @cached_property
    def routes(self) -> dict[tuple[str, str], tuple[BackhaulLink, ...]]:
        beside: dict[str, list[tuple[str, BackhaulLink]]] = {}
        for (one, other), link in self.links.items():
            beside.setdefault(one, []).append((other, link))
            beside.setdefault(other, []).append((one, link))
        found = {}
        for source in (*self.edges, CLOUD):
            near: list[tuple[float, str, tuple[BackhaulLink, ...]]] = [(0.0, source, ())]
            while near:
                far_s, server, route = heappop(near)
                if (source, server) not in found:
                    found[source, server] = route
                    for other, link in beside[server]:
                        heappush(near, (far_s + 1 / link.rate_bps, other, (*route, link)))
        return found


class State(NamedTuple):
    """How many of the first layers each edge stores and uses, and the edge whose copy each client trains."""

    stored: dict[str, int]
    used: dict[str, int]
    holders: tuple[str, ...]


class Arrival(NamedTuple):
    """Transfer of ``layer`` to ``server`` over ``route``."""

    server: str
    layer: int
    route: tuple[BackhaulLink, ...]


@dataclass(frozen=True)
class Controller:
    """Decides where copies are, for ``clients`` that train ``batches`` a round and stay ``stay_rounds`` at an edge."""

    network: EdgeNetwork
    model: Model
    strategy: MigrationStrategy
    clients: int
    batches: int
    stay_rounds: float

    @property
    def synchronised(self) -> bool:
        """Whether copies are averaged each round, which keeps the cloud's layers up to date."""
        return self.clients > 1 or self.strategy == "replicate"

    def begin(self, attached: Sequence[str]) -> State:
        """The first state, for clients at the edges ``attached``."""
        used = {edge: self._own(edge, count, None)[1] for edge, count in Counter(attached).items()}
        if self.strategy != "replicate":
            return _state(used, attached)
        total = accumulate(self.model.held_bytes)
        fits = sum(size <= self.network.storage_bytes for size in total)
        return State(dict.fromkeys(self.network.edges, fits), used, tuple(attached))

    def follow(self, before: State, attached: Sequence[str]) -> State:
        """The state after ``before`` once clients are at the edges ``attached``.

        Edges decide in turn, first those with a copy, which keep their clients. The delay that a newcomer's data causes
        the other clients of a copy is not counted.
        """
        if self.strategy == "stay":
            moves = zip(before.holders, attached, strict=True)
            holders = [old if before.stored.get(old) else edge for old, edge in moves]
            return State(before.stored, dict.fromkeys(attached, 0) | before.used, tuple(holders))
        if self.strategy == "replicate":
            return self.begin(attached)
        here = Counter(attached)
        used = {edge: count for edge, count in before.stored.items() if edge not in here}
        holder: dict[str, str] = {}
        for edge in sorted(here, key=lambda edge: edge not in before.stored):
            cost, own = self._own(edge, here[edge], before)
            options = [(cost, edge)]
            others = {other: count for other, count in used.items() if count and edge not in before.stored}
            for other, count in others.items():
                sharing = here[edge] + sum(here[user] for user, one in holder.items() if one == other)
                round_s = self.batches * self.batch_s(edge, here[edge], other, count, sharing)
                if sharing == here[edge]:  # no other client keeps this copy
                    round_s += sum(self._step_s(other, sharing)[:count])
                options.append((self.stay_rounds * round_s, other))
            _, holder[edge] = min(options, key=lambda option: option[0])
            if holder[edge] == edge:
                used[edge] = own
        return _state(used, [holder[edge] for edge in attached])

    def arrivals(self, before: State, after: State) -> list[Arrival]:
        """Transfers of layers to servers that were not up to date with them."""
        held = {edge: range(before.stored.get(edge, 0), count) for edge, count in after.stored.items()}
        if not self.synchronised:  # one copy: the cloud takes over the layers that the edge drops
            held[CLOUD] = range(max(after.stored.values(), default=0), max(before.stored.values(), default=0))
        return [
            Arrival(server, layer, self._nearest(before, server, layer))
            for server, layers in held.items()
            for layer in layers
        ]

    def batch_s(self, edge: str, clients: int, holder: str, used: int, sharing: int) -> float:
        """Seconds of one batch for each of ``clients`` at ``edge``, where ``sharing`` clients use ``holder``'s copy."""
        network, crossing_bytes = self.network, 2 * clients * self.model.boundary_bytes[0]
        over = sum(8 * crossing_bytes / link.rate_bps + 2 * link.delay_s for link in network.routes[edge, holder])
        up = self._link_s(holder, sharing)[used]
        own = sharing * sum(network.layer_s[holder][:used])
        return over + own + up + sum(network.layer_s[CLOUD][used:])

    def _own(self, edge: str, clients: int, before: State | None) -> tuple[float, int]:
        """The least cost of ``clients`` at ``edge`` over their stay with a copy there, and the layers of that copy.

        The cost is work, synchronising the copy, and moving the layers that are missing after ``before``; infinite if
        no layers fit and the cloud computes none.
        """
        model, network, rounds = self.model, self.network, self.stay_rounds
        work = [
            [
                rounds * (self.batches * clients * seconds + step_s)
                for seconds, step_s in zip(network.layer_s[edge], self._step_s(edge, clients), strict=True)
            ],
            [rounds * self.batches * seconds for seconds in network.layer_s[CLOUD]],
        ]
        if before is not None and self.strategy == "migrate":
            for server, costs in zip((edge, CLOUD), work, strict=True):
                for layer, size in enumerate(model.held_bytes):
                    costs[layer] += route_s(self._nearest(before, server, layer), size)
        crossing = [rounds * self.batches * seconds for seconds in self._link_s(edge, clients)]
        cost, splits = search_within_storage(work, [crossing], model.held_bytes, [network.storage_bytes, inf])
        return cost, splits[0] if splits else 0

    def _step_s(self, edge: str, clients: int) -> list[float]:
        """Seconds [L] per round to synchronise the copy of each layer, if ``clients`` use it."""
        trips = 1 if clients == self.clients else 2  # layers that no other client trains need not return
        if not self.synchronised or self.strategy == "replicate":  # paid there whether the copy is used or not
            trips = 0
        return [trips * route_s(self.network.routes[edge, CLOUD], size) for size in self.model.parameter_bytes]

    def _link_s(self, edge: str, sharing: int) -> list[float]:
        """Seconds [L+1] of one batch for each of the clients that share the route from ``edge`` to the cloud."""
        sizes = [sharing * size for size in self.model.boundary_bytes]
        each = [transfer_s(sizes, *link, gradient_bytes=sizes) for link in self.network.routes[edge, CLOUD]]
        return [sum(seconds) for seconds in zip(*each, strict=True)]

    def _nearest(self, state: State, server: str, layer: int) -> tuple[BackhaulLink, ...]:
        """The route to ``server`` from the nearest server that is up to date with ``layer``; empty if it is itself."""
        holders = [edge for edge, count in state.stored.items() if layer < count]
        if self.synchronised or not holders:
            holders.append(CLOUD)
        if server in holders:
            return ()
        return min((self.network.routes[holder, server] for holder in holders), key=lambda route: route_s(route, 1))


def follow_separate_copies(
    network: EdgeNetwork, model: Model, batches: int, stay_rounds: float, attached: Sequence[Sequence[str]]
) -> list[list[State]]:
    """States [R][M] of the clients' own copies (SFL v1), each with all its layers at one edge, round by round.

    ``attached`` [R][M] are the edges at which clients are. Each copy is placed alone, in the order of the clients, as
    ``migrate`` does. An edge takes no more copies than it can store: a copy begins at the nearest edge with room, and
    stays there while its client's edge has none; data is forwarded to it. Raises ValueError if a copy fits nowhere.
    """
    away = {**network.layer_s, CLOUD: [inf] * len(model.held_bytes)}
    rounds: list[list[State]] = []
    for places in attached:
        states: list[State | None] = list(rounds[-1]) if rounds else [None] * len(places)
        for client, edge in enumerate(places):
            before, states[client] = states[client], None
            held = Counter(state.holders[0] for state in states if state)
            for near in sorted(network.edges, key=lambda one: route_s(network.routes[edge, one], 1)):
                left = network.storage_bytes - held[near] * sum(model.held_bytes)
                alone = replace(network, layer_s=away, storage_bytes=left)
                controller = Controller(alone, model, "migrate", 1, batches, stay_rounds)
                state = controller.follow(before, (near,)) if before else controller.begin((near,))
                if state.stored:
                    break
            else:
                raise ValueError(f"no edge can store {sum(model.held_bytes)} bytes for client {client}")
            states[client] = state
        rounds.append([state for state in states if state])
    return rounds


def route_s(route: Sequence[BackhaulLink], n_bytes: float) -> float:
    """Seconds for ``n_bytes`` of parameters, link after link, without delays."""
    return sum(8 * n_bytes / link.rate_bps for link in route)


def _state(used: Mapping[str, int], holders: Sequence[str]) -> State:
    kept = {edge: count for edge, count in used.items() if edge in holders}
    return State({edge: count for edge, count in kept.items() if count}, kept, tuple(holders))
