"""Do the layers that an edge server stores for a client move when the client does? What a controller decides.

Split Learning in 6G Edge Networks, section VI-C, asks for it and leaves it open. Each client's device holds the layers
before a cut that stays; of those behind it, the edge whose copy the client trains has the first ones, the cloud the
others. Where several clients train, each round ends with the copies' average, made in the cloud. Three strategies:

- ``migrate``: an edge to which clients come takes a copy if over their expected stay it saves more than it costs to
  bring it (HiveMind, Eq. 8: a move is one more cost of the split); or their data goes on to a copy elsewhere, or past
  all edges to the cloud. A copy that nobody uses is dropped.
- ``stay``: copies are where clients began; their smashed data goes on to them.
- ``replicate``: every edge stores all that fits, and all copies are kept in step.

A layer's state comes from the nearest server that is up to date with it, over each link on its route once. All of that
is one cost a layer, for the search of ``placement``; hence a message's delay, milliseconds beside its seconds, is left
out for parameters. A link or an edge's processor that n clients use gives each an n-th; the cloud has enough for all.
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
    """Both directions alike."""

    rate_bps: float
    delay_s: float


class Model(NamedTuple):
    """The L layers behind the devices' cut, for one client's batch; a gradient is as large as what it is of."""

    boundary_bytes: Sequence[int]  # [L+1]; 0 the device's cut, none at L
    held_bytes: Sequence[int]  # [L] what is stored and what moves: parameters, buffers and optimizer state
    parameter_bytes: Sequence[int]  # [L] what is averaged


@dataclass(frozen=True)
class EdgeNetwork:
    """Edges and a cloud; each edge has a link of its own to the cloud."""

    edges: tuple[str, ...]
    links: Mapping[tuple[str, str], BackhaulLink]  # by their ends, once
    layer_s: Mapping[str, Sequence[float]]  # [L] by server: a batch forward and backward
    storage_bytes: float  # of each edge; the cloud holds all

    @cached_property
    def routes(self) -> dict[tuple[str, str], tuple[BackhaulLink, ...]]:
        """The fastest route for parameters from server to server."""
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
    """Layers that each edge stores and uses of the model's first, and whose copy each client trains."""

    stored: dict[str, int]
    used: dict[str, int]
    holders: tuple[str, ...]


class Arrival(NamedTuple):
    """Layer ``layer`` comes over ``route`` to ``server``."""

    server: str
    layer: int
    route: tuple[BackhaulLink, ...]


@dataclass(frozen=True)
class Controller:
    """Decides for ``clients``; ``batches`` of each make a round, and one stays at an edge for ``stay_rounds``."""

    network: EdgeNetwork
    model: Model
    strategy: MigrationStrategy
    clients: int
    batches: int
    stay_rounds: float

    @property
    def synchronised(self) -> bool:
        """Whether copies are averaged each round, so that the cloud is up to date with all layers."""
        return self.clients > 1 or self.strategy == "replicate"

    def begin(self, attached: Sequence[str]) -> State:
        """Where the first copies are, of clients that are at the edges ``attached``."""
        used = {edge: self._own(edge, count, None)[1] for edge, count in Counter(attached).items()}
        if self.strategy != "replicate":
            return _state(used, attached)
        total = accumulate(self.model.held_bytes)
        fits = sum(size <= self.network.storage_bytes for size in total)
        return State(dict.fromkeys(self.network.edges, fits), used, tuple(attached))

    def follow(self, before: State, attached: Sequence[str]) -> State:
        """What becomes of copies and clients once these are at the edges ``attached``.

        Edges are asked in turn, first those that have a copy: they keep their clients. What a newcomer's data costs
        the clients whose copy it shares is not weighed.
        """
        if self.strategy == "stay":
            holders = [
                old if before.stored.get(old) else edge for old, edge in zip(before.holders, attached, strict=True)
            ]
            return State(before.stored, dict.fromkeys(attached, 0) | before.used, tuple(holders))
        if self.strategy == "replicate":
            return self.begin(attached)
        here = Counter(attached)
        used = {edge: count for edge, count in before.stored.items() if edge not in here}
        holder: dict[str, str] = {}
        for edge in sorted(here, key=lambda edge: edge not in before.stored):
            cost, own = self._own(edge, here[edge], before)
            options = [(cost, edge)]
            for other, count in used.items() if edge not in before.stored else ():
                sharing = here[edge] + sum(here[user] for user, one in holder.items() if one == other)
                round_s = self.batches * self.batch_s(edge, here[edge], other, count, sharing)
                if sharing == here[edge]:  # nobody else would keep it
                    round_s += sum(self._step_s(other, sharing)[:count])
                options.append((self.stay_rounds * round_s, other))
            _, holder[edge] = min(options, key=lambda option: option[0])
            if holder[edge] == edge:
                used[edge] = own
        return _state(used, [holder[edge] for edge in attached])

    def arrivals(self, before: State, after: State) -> list[Arrival]:
        """Layers that come to a server which was not up to date with them."""
        held = {edge: range(before.stored.get(edge, 0), count) for edge, count in after.stored.items()}
        if not self.synchronised:  # one copy: the cloud takes over what the edge gives up
            held[CLOUD] = range(max(after.stored.values(), default=0), max(before.stored.values(), default=0))
        return [
            Arrival(server, layer, self._nearest(before, server, layer))
            for server, layers in held.items()
            for layer in layers
        ]

    def batch_s(self, edge: str, clients: int, holder: str, used: int, sharing: int) -> float:
        """Seconds of a batch of each of ``clients`` at ``edge`` from there on; ``sharing`` use ``holder``'s copy."""
        network, crossing = self.network, self.model.boundary_bytes
        over = sum(
            8 * 2 * crossing[0] * clients / link.rate_bps + 2 * link.delay_s for link in self._route(edge, holder)
        )
        up = self._link_s(holder, sharing)[used]
        own = sharing * sum(network.layer_s[holder][:used])
        return over + own + up + sum(network.layer_s[CLOUD][used:])

    def _own(self, edge: str, clients: int, before: State | None) -> tuple[float, int]:
        """The least cost over their stay of ``clients`` at ``edge`` with a copy there, and its layers.

        To the work comes keeping the copy in step, and bringing what of it is not there after ``before``. Infinite
        if no layers fit and the cloud takes none.
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
        """Seconds [L] that keeping a layer's copy in step takes each round, if ``clients`` use it."""
        trips = 1 if clients == self.clients else 2  # what nobody else trains need not come back
        if not self.synchronised or self.strategy == "replicate":  # there it is paid whether the copy is used or not
            trips = 0
        return [trips * route_s(self._route(edge, CLOUD), size) for size in self.model.parameter_bytes]

    def _link_s(self, edge: str, sharing: int) -> list[float]:
        """Seconds [L+1] of a batch of each of those who share the route from ``edge`` to the cloud."""
        sizes = [sharing * size for size in self.model.boundary_bytes]
        each = [transfer_s(sizes, *link, gradient_bytes=sizes) for link in self._route(edge, CLOUD)]
        return [sum(seconds) for seconds in zip(*each, strict=True)]

    def _route(self, source: str, target: str) -> tuple[BackhaulLink, ...]:
        return self.network.routes[source, target]

    def _nearest(self, state: State, server: str, layer: int) -> tuple[BackhaulLink, ...]:
        """The route to ``server`` from the nearest one that is up to date with ``layer``; none if it is itself."""
        holders = [edge for edge, count in state.stored.items() if layer < count]
        if self.synchronised or not holders:
            holders.append(CLOUD)
        if server in holders:
            return ()
        return min((self._route(holder, server) for holder in holders), key=lambda route: route_s(route, 1))


def follow_separate_copies(
    network: EdgeNetwork, model: Model, batches: int, stay_rounds: float, attached: Sequence[Sequence[str]]
) -> list[list[State]]:
    """Where the copy is that each client has for itself (SFL v1), round by round [R][M], all its layers at one edge.

    ``attached`` [R][M] are the edges at which clients are. Each copy is decided for itself, by the clients' numbers, as
    ``migrate`` does. An edge takes no more copies than it can store: one begins at the nearest edge with room, and
    stays where it is while there is none where its client goes; data goes on to it. Raises ValueError if one fits
    nowhere.
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
                raise ValueError(f"no edge can store {sum(model.held_bytes)} B for client {client}")
            states[client] = state
        rounds.append([state for state in states if state])
    return rounds


def route_s(route: Sequence[BackhaulLink], n_bytes: float) -> float:
    """How long ``n_bytes`` of parameters take, link after link."""
    return sum(8 * n_bytes / link.rate_bps for link in route)


def _state(used: Mapping[str, int], holders: Sequence[str]) -> State:
    """The state in which just those copies are stored that someone uses."""
    kept = {edge: count for edge, count in used.items() if edge in holders}
    return State({edge: count for edge, count in kept.items() if count}, kept, tuple(holders))
