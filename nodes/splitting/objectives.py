"""What is the best split where several metrics count: some as small as can be, some to stay below a limit?

HiveMind, section V. Best-effort metrics are weighed and added (Eq. 11): ``search(*weighted_sum(...))``. A metric with
a limit Phi counts as W(x) = 1 / (Phi - x), and from x = Phi on as infinite (Eq. 12). What x is, is open:

- ``search_per_edge``: what one edge costs, as Eq. 12 is printed. An edge is a node's incoming transfer and its
  layers, so a path of two nodes may take nearly twice the limit.
- ``search_accumulated``: what the path costs from there to its end, which a node adds up from what its neighbour
  tells. Whatever it finds keeps the limit, but it finds the best there is not always, and at times nothing: each
  node chooses without knowing what is left to it.
- ``search_within_limit``: no W; the least best-effort cost of all splits within the limit, exact, and not distributed.

A non-linear cost of an edge is no sum of layers' costs: a node's update takes O(L^2), in a few tensor operations.
"""

import heapq
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from nodes.splitting.search import TIE, BestSplit, follow_stops, path_cost, sink_costs, split_node


class ChainMetric(NamedTuple):
    """One metric of a chain of P nodes, as ``search`` takes it; finite and never negative."""

    layers: Sequence[Sequence[float]]  # [P][L] each node's cost of each layer
    links: Sequence[Sequence[float]]  # [P-1][L+1] each link's cost of each boundary


class Limit(NamedTuple):
    """A metric that is to stay below ``most`` (Phi)."""

    costs: ChainMetric
    most: float


def weighted_sum(metrics: Sequence[ChainMetric], weights: Sequence[float]) -> ChainMetric:
    """The weighted sum of ``metrics`` (HiveMind, Eq. 11)."""

    def weighted(rows: tuple[Sequence[float], ...]) -> list[float]:
        counted = [(weight, row) for weight, row in zip(weights, rows, strict=True) if weight]
        return [sum(weight * row[i] for weight, row in counted) for i in range(len(rows[0]))]

    return ChainMetric(
        [weighted(rows) for rows in zip(*(metric.layers for metric in metrics), strict=True)],
        [weighted(rows) for rows in zip(*(metric.links for metric in metrics), strict=True)],
    )


def weight_function(cost: Tensor, most: float) -> Tensor:
    """W of Eq. 12: 1 / (most - cost), infinite from ``most`` on; of any shape."""
    return (1 / (most - cost)).masked_fill(cost >= most, inf)


def edge_costs(costs: ChainMetric, node: int) -> Tensor:
    """What ``node`` costs [L+1, L+1] if it gets the task at boundary i and stops at j; infinite where j < i.

    float64. Layers' costs are differences of prefix sums, so off by 2^-53 of all layers' sum or so.
    """
    done = torch.tensor([*accumulate(costs.layers[node], initial=0.0)], dtype=torch.float64)
    arriving = torch.tensor(costs.links[node - 1], dtype=torch.float64) if node else torch.zeros_like(done)
    boundary = torch.arange(len(done))
    spent = arriving[:, None] + done[None, :] - done[:, None]
    return spent.masked_fill(boundary[None, :] < boundary[:, None], inf)


def search_per_edge(best: ChainMetric, limits: Sequence[Limit]) -> BestSplit | None:
    """The split of least cost by Eq. 12, with W of each edge's own cost; None if every path has an infinite edge.

    ``cost`` is the sum of Eq. 12, not of ``best``.
    """
    downstream = torch.tensor(sink_costs(len(best.layers[0])), dtype=torch.float64)
    stops = []
    for node in reversed(range(len(best.layers))):
        ways = edge_costs(best, node) + downstream
        for limit in limits:
            ways += weight_function(edge_costs(limit.costs, node), limit.most)
        stop = _least(ways)
        downstream = ways.amin(1)
        stops.append(stop.tolist())
    return _split(float(downstream[0]), stops)


def search_accumulated(best: ChainMetric, limits: Sequence[Limit]) -> BestSplit | None:
    """The split that nodes settle for with W of what the path costs from each of them on; None if it is infinite.

    A node is told, for each boundary, its neighbour's best-effort cost and each limited metric, of the way that
    the neighbour would take: 1 + C values. It takes the way on for which W of the sums and the best-effort sum are
    least together. ``cost`` is that of Eq. 12 with the whole path as its only edge.
    """
    metrics = [best, *(limit.costs for limit in limits)]
    told = torch.tensor([sink_costs(len(best.layers[0]))] * len(metrics), dtype=torch.float64)  # [1 + C, L+1]
    stops = []
    for node in reversed(range(len(best.layers))):
        sums = torch.stack([edge_costs(metric, node) for metric in metrics]) + told[:, None, :]  # [1 + C, L+1, L+1]
        ways = sums[0].clone()
        for limit, cost in zip(limits, sums[1:], strict=True):
            ways += weight_function(cost, limit.most)
        stop = _least(ways)
        told = sums[:, torch.arange(len(stop)), stop]  # beyond a limit it stays so, whatever comes before
        stops.append(stop.tolist())
    return _split(float(ways[0].amin()), stops)


def search_within_limit(best: ChainMetric, limit: Limit) -> BestSplit | None:
    """The split of least ``best`` cost whose limited metric is at most ``limit.most``, or None; exact.

    Label setting: a label is a way to get to (node, layers done) with what it cost so far. Those with the least
    cost that they may end with come first, so the first at the end is the best; one that was no faster than an
    earlier one at the same place is dropped, and so is one that even the fastest way on would bring beyond the
    limit. What the rest costs at least is the metric's own SCI. Of costs equal as floats the lower limited one
    is returned. The labels may be many: in the worst case as many as there are splits.
    """
    nodes, layers = len(best.layers), len(best.layers[0])
    least, fastest = _to_go(best), _to_go(limit.costs)
    most = limit.most * TIE
    taken = [[inf] * (layers + 1) for _ in range(nodes)]  # the limited metric of the last label taken at each place
    labels: list[tuple[float, float, float, float, int, int, tuple[int, ...]]] = []
    if fastest[0][0] <= most:
        labels.append((least[0][0], fastest[0][0], 0.0, 0.0, 0, 0, ()))
    while labels:
        _, _, cost, used, node, done, splits = heapq.heappop(labels)
        if used >= taken[node][done]:
            continue
        taken[node][done] = used
        if node == nodes - 1 and done == layers:
            return BestSplit(path_cost(*best, splits), list(splits))
        ways: list[tuple[float, float, int, int, tuple[int, ...]]] = []
        if done < layers:
            ways.append((best.layers[node][done], limit.costs.layers[node][done], node, done + 1, splits))
        if node < nodes - 1:
            ways.append((best.links[node][done], limit.costs.links[node][done], node + 1, done, (*splits, done)))
        for more, use, to, end, path in ways:
            if used + use + fastest[to][end] <= most:
                whole, slowest = cost + more + least[to][end], used + use + fastest[to][end]
                heapq.heappush(labels, (whole, slowest, cost + more, used + use, to, end, path))
    return None


def _to_go(costs: ChainMetric) -> list[list[float]]:
    """The least cost [P][L+1] from each node on when the task is there with so many layers done."""
    layers = len(costs.layers[0])
    free, to_go = [0.0] * (layers + 1), [sink_costs(layers)]
    for layer_cost, link_cost in zip(reversed(costs.layers), [free, *reversed(costs.links)], strict=True):
        downstream = [link + rest for link, rest in zip(link_cost, to_go[-1], strict=True)]
        to_go.append(split_node(layer_cost, free, downstream).cost)
    return to_go[:0:-1]


def _least(ways: Tensor) -> Tensor:
    """Where to stop [L+1]: the least of each row of ``ways`` [L+1, L+1], the last of equal ones."""
    return ways.shape[1] - 1 - ways.flip(1).argmin(1)


def _split(cost: float, stops: list[list[int]]) -> BestSplit | None:
    return None if cost == inf else BestSplit(cost, follow_stops(stops[::-1]))
