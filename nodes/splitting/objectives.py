"""Split search for several metrics: best-effort ones to minimise, constrained ones to keep below a limit.

HiveMind, section V. Best-effort metrics are weighted and added (Eq. 11): ``search(*weighted_sum(...))``. A metric
with a limit Phi costs W(x) = 1 / (Phi - x), infinite from x = Phi on (Eq. 12). The paper leaves open what x is:

- ``search_per_edge``: the cost of one edge, as Eq. 12 is printed. An edge is a node's incoming transfer and its
  layers, so a path of two nodes may take nearly twice the limit.
- ``search_accumulated``: the cost of the path from there to its end, which a node adds up from its neighbour's
  message. Its result keeps the limit, but is not always the optimum, and at times there is none: each node chooses
  without knowing how much of the limit is left to it.
- ``search_within``: no W; the least best-effort cost of all splits within the limits, exact, and not distributed.

All return None if every split costs infinity. A non-linear cost of an edge is not a sum of layers' costs: a node's
update takes O(L^2), in a few tensor operations.
"""

import heapq
import sys
from collections.abc import Sequence
from math import inf
from operator import le
from typing import NamedTuple

import torch
from torch import Tensor

from nodes.splitting.search import TIE, BestSplit, follow_stops, path_cost, sink_costs, split_node


class ChainMetric(NamedTuple):
    """One metric of a chain of P nodes: the arguments of ``search``, never negative; infinite where a node may not."""

    layers: Sequence[Sequence[float]]  # [P][L] each node's cost of each layer
    links: Sequence[Sequence[float]]  # [P-1][L+1] each link's cost of each boundary


class Limit(NamedTuple):
    """A constraint: the metric must stay below ``bound`` (Phi)."""

    costs: ChainMetric
    bound: float


def weighted_sum(metrics: Sequence[ChainMetric], weights: Sequence[float]) -> ChainMetric:
    """The weighted sum of ``metrics`` (HiveMind, Eq. 11)."""

    def weighted(rows: tuple[Sequence[float], ...]) -> list[float]:
        counted = [(weight, row) for weight, row in zip(weights, rows, strict=True) if weight]
        if not counted:
            return [0.0] * len(rows[0])
        (factor, first), *others = counted
        total = [factor * value for value in first]
        for factor, row in others:
            total = [value + factor * more for value, more in zip(total, row, strict=True)]
        return total

    return ChainMetric(
        [weighted(rows) for rows in zip(*(metric.layers for metric in metrics), strict=True)],
        [weighted(rows) for rows in zip(*(metric.links for metric in metrics), strict=True)],
    )


def weight_function(cost: Tensor, bound: float) -> Tensor:
    """W of Eq. 12, elementwise: 1 / (bound - cost), infinite from ``bound`` on."""
    return (1 / (bound - cost)).masked_fill(cost >= bound, inf)


def edge_costs(costs: ChainMetric, node: int) -> Tensor:
    """Cost [L+1, L+1] of ``node`` if it receives the task at boundary i and stops at j, float64; infinite for j < i.

    Each row is a sum of its own from boundary i on: differences of prefix sums are no numbers behind an infinite layer.
    """
    layers = torch.tensor(costs.layers[node], dtype=torch.float64)
    boundary = torch.arange(len(layers) + 1)
    arriving = torch.tensor(costs.links[node - 1] if node else [0.0] * len(boundary), dtype=torch.float64)
    done = layers.repeat(len(boundary), 1).masked_fill(boundary[:-1] < boundary[:, None], 0.0).cumsum(1)
    spent = arriving[:, None] + torch.nn.functional.pad(done, (1, 0))
    return spent.masked_fill(boundary < boundary[:, None], inf)


def search_per_edge(best: ChainMetric, limits: Sequence[Limit]) -> BestSplit | None:
    """The split of least cost by Eq. 12, with W of each edge's own cost; None if every path has an infinite edge."""
    downstream = torch.tensor(sink_costs(len(best.layers[0])), dtype=torch.float64)
    stops = []
    for node in reversed(range(len(best.layers))):
        ways = edge_costs(best, node) + downstream
        for limit in limits:
            ways += weight_function(edge_costs(limit.costs, node), limit.bound)
        stop = _least(ways)
        downstream = ways.amin(1)
        stops.append(stop.tolist())
    return _split(float(downstream[0]), stops)


def search_accumulated(best: ChainMetric, limits: Sequence[Limit]) -> BestSplit | None:
    """The split that nodes choose with W of the cost of the path from each of them on; None if that is infinite.

    For each boundary a node's message has 1 + C values of the path that it would take: the best-effort cost ``best``
    and the metric of each of the C ``limits``. Its upstream neighbour minimises the sum of W of the metrics and the
    best-effort cost. The returned cost is that of Eq. 12 for the whole path as one edge.
    """
    metrics = [best, *(limit.costs for limit in limits)]
    downstream = torch.tensor([sink_costs(len(best.layers[0]))] * len(metrics), dtype=torch.float64)  # [1 + C, L+1]
    stops = []
    for node in reversed(range(len(best.layers))):
        edges = torch.stack([edge_costs(metric, node) for metric in metrics])
        sums = edges + downstream[:, None, :]  # [1 + C, L+1, L+1]
        ways = sums[0].clone()
        for limit, cost in zip(limits, sums[1:], strict=True):
            ways += weight_function(cost, limit.bound)
        stop = _least(ways)
        downstream = sums[:, torch.arange(len(stop)), stop]  # sums only grow upstream: a broken limit stays broken
        stops.append(stop.tolist())
    return _split(float(ways[0].amin()), stops)


def search_within_limit(best: ChainMetric, limit: Limit) -> BestSplit | None:
    """The split of least ``best`` cost whose constrained metric is at most the bound, both finite, or None; exact."""
    return search_within(best, [limit])


def search_within(
    best: ChainMetric, limits: Sequence[Limit], last_stops: Sequence[Sequence[int]] | None = None
) -> BestSplit | None:
    """The split of least ``best`` cost that keeps all limits (up to their bound, included), or None; exact.

    An infinite cost, in any metric, is what cannot be done, so no split has one, even below a bound of infinity.

    ``last_stops`` [P][L+1] limits what a node computes: a task that reaches node p at boundary i leaves it with at most
    ``last_stops[p][i]`` layers done, which must not fall with i.

    Label setting: a label is a path to (node, layers done) with its costs so far. Labels are taken in the order of the
    least cost with which they can end, so the first at the end is the best. One is dropped that is no better in any
    constrained metric than an earlier one at the same place, nor has more layers to go there, and so is one that
    exceeds a bound even by the fastest way to the end. Each metric's own least remaining cost bounds it. Of costs equal
    as floats that of the lower constrained metrics is taken, then that ahead along the chain. In the worst case there
    are as many labels as splits.
    """
    nodes, layers = len(best.layers), len(best.layers[0])
    rooms = last_stops or [[layers] * (layers + 1)] * nodes
    least, *fastest = (_to_go(costs, last_stops) for costs in (best, *(limit.costs for limit in limits)))
    bounds = [min(limit.bound * TIE, sys.float_info.max) for limit in limits]  # what is infinite cannot be done
    taken: dict[tuple[int, int], list[tuple[tuple[float, ...], int]]] = {}
    labels: list[_Label] = []

    def push(cost: float, used: tuple[float, ...], room: int, node: int, path: tuple[int, ...]) -> None:
        done = path[-1]
        whole = cost + least[node][done]
        slowest = tuple(spent + rest[node][done] for spent, rest in zip(used, fastest, strict=True))
        if whole < inf and all(value <= bound for value, bound in zip(slowest, bounds, strict=True)):
            heapq.heappush(labels, _Label(whole, slowest, tuple(-one for one in path), cost, used, room, node))

    push(0.0, (0.0,) * len(limits), rooms[0][0], 0, (0,))
    while labels:
        _, _, negated, cost, used, room, node = heapq.heappop(labels)
        path = tuple(-one for one in negated)
        done = path[-1]
        earlier = taken.setdefault((node, done), [])
        if any(most >= room and all(map(le, spent, used)) for spent, most in earlier):
            continue
        earlier.append((used, room))
        if node == nodes - 1 and done == layers:
            return BestSplit(path_cost(*best, path[:-1]), list(path[:-1]))
        if done < room:
            spent = tuple(value + limit.costs.layers[node][done] for value, limit in zip(used, limits, strict=True))
            push(cost + best.layers[node][done], spent, room, node, (*path[:-1], done + 1))
        if node < nodes - 1:
            spent = tuple(value + limit.costs.links[node][done] for value, limit in zip(used, limits, strict=True))
            push(cost + best.links[node][done], spent, rooms[node + 1][done], node + 1, (*path, done))
    return None


class _Label(NamedTuple):
    """A path of ``search_within``, in the order in which labels are taken."""

    whole: float  # the least cost with which it can end
    slowest: tuple[float, ...]  # the least constrained metrics with which it can end
    path: tuple[int, ...]  # layers done when leaving each node, and now; negated, so that the one ahead is first
    cost: float
    used: tuple[float, ...]
    room: int  # the most layers done here
    node: int


def _to_go(costs: ChainMetric, last_stops: Sequence[Sequence[int]] | None) -> list[list[float]]:
    """The least cost [P][L+1] from each node on, by the layers done when the task is there."""
    layers = len(costs.layers[0])
    free, to_go = [0.0] * (layers + 1), [sink_costs(layers)]
    for node, link_cost in zip(range(len(costs.layers) - 1, -1, -1), [free, *reversed(costs.links)], strict=True):
        downstream = [link + rest for link, rest in zip(link_cost, to_go[-1], strict=True)]
        if last_stops is None:
            to_go.append(split_node(costs.layers[node], free, downstream).cost)
        else:
            stops = enumerate(last_stops[node])
            to_go.append([_least_until(costs.layers[node], downstream, start, last) for start, last in stops])
    return to_go[:0:-1]


def _least_until(layer_cost: Sequence[float], downstream: Sequence[float], start: int, last: int) -> float:
    """The least cost of computing from ``start`` to some boundary up to ``last``, and all downstream of it."""
    spent, least = 0.0, downstream[start]
    for layer in range(start, last):
        spent += layer_cost[layer]
        least = min(least, spent + downstream[layer + 1])
    return least


def _least(ways: Tensor) -> Tensor:
    """The stops [L+1]: the column of the least cost in each row of ``ways`` [L+1, L+1], the last of equal ones."""
    equal = ways <= ways.amin(1, keepdim=True) * TIE
    return ways.shape[1] - 1 - equal.flip(1).int().argmax(1)


def _split(cost: float, stops: list[list[int]]) -> BestSplit | None:
    return None if cost == inf else BestSplit(cost, follow_stops(stops[::-1]))
