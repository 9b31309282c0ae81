"""Placement of a model's layers on servers with limited storage, and the split over what they store.

Split Learning in 6G Edge Networks, section VI-C, gives no method for storage limits. This is HiveMind's split-cost
search with one more limit: the layers that a node computes, a run from boundary i on, must fit into its storage. The
search stays exact, in O(P L^2) at most, and of two optima the later split at each node is optimal too, and fits.

A copy on a server serves all paths over it. Paths that share servers are placed together: each shared server stores
one run of layers; every choice of longest runs is tried, and each path is searched within it. (Sets of layers with
gaps would be a knapsack problem, and are left out.)
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from math import fsum, inf
from typing import NamedTuple

from nodes.splitting.search import TIE, BestSplit, CostTable, NodeSplit, follow_stops, path_cost, sink_costs

LayerSpan = tuple[int, int]  # (first, one after the last)


class ServerPath(NamedTuple):
    """The servers that data passes, with costs as in ``search.search``."""

    servers: tuple[str, ...]
    layer_costs: CostTable  # [P][L]
    link_costs: CostTable  # [P-1][L+1]


class Placement(NamedTuple):
    """The least cost of all paths together, the splits of each, and the layers that each server stores."""

    cost: float
    splits: list[list[int]]
    stored: dict[str, LayerSpan]


def split_node_within_storage(
    layer_cost: Sequence[float],
    link_cost: Sequence[float],
    downstream: Sequence[float],
    held_bytes: Sequence[float],
    storage_bytes: float,
) -> NodeSplit:
    """``search.split_node`` for a node that holds ``storage_bytes`` of ``held_bytes`` [L]; infinite if none fits."""
    costs, stops = [], []
    for start, link in enumerate(link_cost):
        least, stop, work, held = downstream[start], start, 0.0, 0.0
        for layer in range(start, len(layer_cost)):
            work += layer_cost[layer]
            held += held_bytes[layer]
            if held > storage_bytes or work == inf:
                break
            rest = work + downstream[layer + 1]
            if rest <= least * TIE:
                least, stop = rest if rest < least else least, layer + 1
        costs.append(link + least)
        stops.append(stop)
    return NodeSplit(costs, stops)


def search_within_storage(
    layer_costs: CostTable, link_costs: CostTable, held_bytes: Sequence[float], storage_bytes: Sequence[float]
) -> BestSplit:
    """The cheapest split of a chain whose nodes store at most ``storage_bytes`` [P] of layers.

    Args:
        layer_costs: Each node's cost of each layer [P][L].
        link_costs: Each link's cost of each boundary [P-1][L+1].
        held_bytes: Stored bytes [L] of each layer; 0 needs no storage.
        storage_bytes: Storage [P] of each node.

    Returns:
        Cost and splits; an infinite cost and no splits if nothing fits.
    """
    layers = len(held_bytes)
    downstream, stops = sink_costs(layers), []
    arriving = [[0.0] * (layers + 1), *link_costs]
    nodes = zip(reversed(layer_costs), reversed(arriving), reversed(storage_bytes), strict=True)
    for layer_cost, link_cost, storage in nodes:
        downstream, stop = split_node_within_storage(layer_cost, link_cost, downstream, held_bytes, storage)
        stops.append(stop)
    if downstream[0] == inf:
        return BestSplit(inf, [])
    splits = follow_stops(stops[::-1])
    return BestSplit(path_cost(layer_costs, link_costs, splits), splits)


def place_layers(
    paths: Sequence[ServerPath], held_bytes: Sequence[float], storage_bytes: Mapping[str, float]
) -> Placement:
    """The cheapest splits of all ``paths`` together, where each server stores one run of layers for all its paths.

    Tries the product of the longest runs of the servers that several paths share and that cannot store the whole model:
    meant for one or two such servers. ``held_bytes`` [L] are by layer, ``storage_bytes`` by server. Raises ValueError
    if no placement fits.
    """
    uses = Counter(server for path in paths for server in path.servers)
    tight = [server for server, count in uses.items() if count > 1 and storage_bytes[server] < sum(held_bytes)]
    best = Placement(inf, [], {})
    for chosen in product(*(longest_runs(held_bytes, storage_bytes[server]) for server in tight)):
        open_to = dict(zip(tight, chosen, strict=True))
        found = [_search(path, held_bytes, storage_bytes, open_to) for path in paths]
        cost = fsum(split.cost for split in found)
        if cost < best.cost:
            splits = [split.splits for split in found]
            best = Placement(cost, splits, stored_spans(paths, splits, len(held_bytes)))
    if best.cost == inf:
        raise ValueError(f"no placement fits: layers of {sum(held_bytes)} bytes, storage_bytes {dict(storage_bytes)}")
    return best


def longest_runs(held_bytes: Sequence[float], storage_bytes: float) -> list[LayerSpan]:
    """The runs of layers that fit into ``storage_bytes`` and cannot be extended; (0, 0) if no layer fits."""
    runs, stop = [], 0
    for start in range(len(held_bytes)):
        stop = before = max(start, stop)
        while stop < len(held_bytes) and sum(held_bytes[start : stop + 1]) <= storage_bytes:
            stop += 1
        if stop > before:
            runs.append((start, stop))
    return runs or [(0, 0)]


def stored_spans(paths: Sequence[ServerPath], splits: Sequence[Sequence[int]], layers: int) -> dict[str, LayerSpan]:
    """The layers that each server stores: from the first to the last that it computes on any path."""
    held: dict[str, LayerSpan] = {}
    for path, split in zip(paths, splits, strict=True):
        done = [0, *split, layers]
        for server, start, stop in zip(path.servers, done, done[1:], strict=False):
            if start < stop:
                low, high = held.get(server, (start, stop))
                held[server] = min(low, start), max(high, stop)
    return held


def _search(
    path: ServerPath, held_bytes: Sequence[float], storage_bytes: Mapping[str, float], open_to: Mapping[str, LayerSpan]
) -> BestSplit:
    layer_costs = []
    for server, costs in zip(path.servers, path.layer_costs, strict=True):
        low, high = open_to.get(server, (0, len(costs)))
        layer_costs.append([cost if low <= layer < high else inf for layer, cost in enumerate(costs)])
    limits_bytes = [storage_bytes[server] for server in path.servers]
    return search_within_storage(layer_costs, path.link_costs, held_bytes, limits_bytes)
