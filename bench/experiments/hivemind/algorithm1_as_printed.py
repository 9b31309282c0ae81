"""HiveMind's Algorithm 1 as printed, which does not always return the optimum; kept to show its error.

If the best split from i computes up to n_i, lines 10 to 14 set the same stop n_i for each z between, which is
correct, and zeta_z = zeta_i - sum(tau_i..tau_z), which is not: it keeps the transfer epsilon_i instead of z's own,
and subtracts one layer too many. The latter is corrected here, so that only the former remains.
"""

from collections.abc import Sequence
from itertools import accumulate

from nodes.splitting.search import BestSplit, NodeSplit, follow_stops, path_cost, sink_costs


def printed_node(layer_cost: Sequence[float], link_cost: Sequence[float], downstream: Sequence[float]) -> NodeSplit:
    """Algorithm 1 of one node in O(L^2), with boundaries as in ``split_node`` and the sum of line 13 corrected.

    Boundary i is the paper's first layer i + 1. A node may compute nothing (j = i), as the paper's text requires.
    """
    layers = len(layer_cost)
    done = [0.0, *accumulate(layer_cost)]
    cost, stop = [0.0] * (layers + 1), [layers] * (layers + 1)
    i = 0
    while i <= layers:
        ways = [done[j] - done[i] + link_cost[i] + downstream[j] for j in range(i, layers + 1)]
        cost[i] = min(ways)
        stop[i] = i + ways.index(cost[i])
        for z in range(i + 1, stop[i]):
            stop[z] = stop[i]
            cost[z] = cost[i] - (done[z] - done[i])  # lacks + link_cost[z] - link_cost[i]
        i = max(stop[i], i + 1)
    return NodeSplit(cost, stop)


def printed_search(layer_costs: Sequence[Sequence[float]], link_costs: Sequence[Sequence[float]]) -> BestSplit:
    """The split of all nodes' updates by ``printed_node``, and the true cost of that split."""
    layers = len(layer_costs[0])
    downstream, stops = sink_costs(layers), []
    for layer_cost, link_cost in zip(reversed(layer_costs), [*reversed(link_costs), [0.0] * (layers + 1)], strict=True):
        downstream, stop = printed_node(layer_cost, link_cost, downstream)
        stops.append(stop)
    splits = follow_stops(stops[::-1])
    return BestSplit(path_cost(layer_costs, link_costs, splits), splits)
