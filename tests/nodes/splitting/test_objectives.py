"""Splits for several metrics against brute force over all splits."""

from itertools import combinations_with_replacement, pairwise
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.splitting import objectives
from nodes.splitting.objectives import ChainMetric, Limit, search_accumulated, search_within_limit, weighted_sum
from nodes.splitting.search import path_cost, search

Splits = tuple[int, ...]


@st.composite
def metrics(draw: st.DrawFn) -> list[ChainMetric]:
    """Three metrics of one small chain: small whole numbers, so that ties are common, some of them infinite."""
    nodes, layers = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def rows(count: int, width: int) -> Any:
        row = st.lists(st.sampled_from([0.0, 0.0, 1.0, 2.0, 3.0, 5.0, inf]), min_size=width, max_size=width)
        return st.lists(row, min_size=count, max_size=count)

    return [ChainMetric(draw(rows(nodes, layers)), draw(rows(nodes - 1, layers + 1))) for _ in range(3)]


limits = st.sampled_from([*range(1, 20), inf])


def all_splits(costs: ChainMetric) -> list[Splits]:
    return list(combinations_with_replacement(range(len(costs.layers[0]) + 1), len(costs.links)))


def edge_costs(costs: ChainMetric, splits: Splits) -> list[float]:
    """What each node's edge costs: its incoming transfer and its layers."""
    done = [0, *splits, len(costs.layers[0])]
    arriving = [0.0, *(link[i] for link, i in zip(costs.links, splits, strict=True))]
    edges = zip(arriving, costs.layers, pairwise(done), strict=True)
    return [arrival + sum(row[i:j]) for arrival, row, (i, j) in edges]


def weight(cost: float, most: float) -> float:
    return 1 / (most - cost) if cost < most else inf


@settings(max_examples=100)
@given(metrics(), st.lists(st.sampled_from([0.0, 0.25, 1.0, 3.0]), min_size=3, max_size=3))
def test_combined_costs_are_the_weighted_sums(three: list[ChainMetric], weights: list[float]) -> None:
    for splits in all_splits(three[0]):
        apart = sum(w * path_cost(*metric, splits) for w, metric in zip(weights, three, strict=True) if w)
        assert path_cost(*weighted_sum(three, weights), splits) == pytest.approx(apart)


@settings(max_examples=200)
@given(metrics(), limits, limits)
def test_per_edge_the_sum_of_equation_12_is_least(three: list[ChainMetric], one: int, other: int) -> None:
    best, latency, energy = three
    oracle = {
        splits: sum(edge_costs(best, splits))
        + sum(weight(cost, one) for cost in edge_costs(latency, splits))
        + sum(weight(cost, other) for cost in edge_costs(energy, splits))
        for splits in all_splits(best)
    }
    least = min(oracle.values())
    found = objectives.search_per_edge(best, [Limit(latency, one), Limit(energy, other)])
    if least == inf:
        assert found is None
    else:
        assert found.cost == pytest.approx(least)
        assert oracle[tuple(found.splits)] == pytest.approx(least)


def settled(
    best: ChainMetric, latency: ChainMetric, most: float, node: int, start: int
) -> tuple[float, float, float, Splits]:
    """What the node at ``start`` settles for, and all after it, told by plain recursion: W + best, best, latency."""
    layers, last = len(best.layers[0]), node == len(best.layers) - 1
    ways = []
    for stop in range(layers if last else start, layers + 1):
        rest = (0.0, 0.0, 0.0, ()) if last else settled(best, latency, most, node + 1, stop)
        sums = [
            (costs.links[node - 1][start] if node else 0.0) + sum(costs.layers[node][start:stop]) + after
            for costs, after in ((best, rest[1]), (latency, rest[2]))
        ]
        total = weight(sums[1], most) + sums[0] if rest[0] < inf else inf
        ways.append((total, *sums, () if last else (stop, *rest[3])))
    return min(reversed(ways), key=lambda way: round(way[0], 9))


@settings(max_examples=200)
@given(metrics(), limits)
def test_accumulated_each_node_settles_for_its_least(three: list[ChainMetric], most: int) -> None:
    best, latency, _ = three
    total, cost, used, splits = settled(best, latency, most, 0, 0)
    found = search_accumulated(best, [Limit(latency, most)])
    if total == inf:
        assert found is None
    else:
        assert found.cost == pytest.approx(total)
        assert path_cost(*latency, found.splits) < most
        if tuple(found.splits) == splits:  # else a tie that rounding broke the other way
            assert (path_cost(*best, splits), path_cost(*latency, splits)) == pytest.approx((cost, used))


@settings(max_examples=200)
@given(metrics(), limits, st.sampled_from([1.0, 0.1, 1e-7]))
def test_within_a_limit_the_least_cost_is_exact(three: list[ChainMetric], most: int, scale: float) -> None:
    best, latency = (weighted_sum([metric], [scale]) for metric in three[:2])
    whole_best, whole_latency, _ = three
    oracle = {splits: path_cost(*whole_best, splits) for splits in all_splits(best)}
    within = [splits for splits, cost in oracle.items() if max(cost, path_cost(*whole_latency, splits)) < inf]
    within = [splits for splits in within if path_cost(*whole_latency, splits) <= most]
    found = search_within_limit(best, Limit(latency, most * scale))
    if not within:
        assert found is None
        return
    least = min(oracle[splits] for splits in within)
    assert tuple(found.splits) in within
    assert oracle[tuple(found.splits)] == least
    assert found.cost == pytest.approx(least * scale)
    if scale == 1:  # else rounding may tell equal costs apart
        others = [path_cost(*whole_latency, splits) for splits in within if oracle[splits] == least]
        assert path_cost(*whole_latency, found.splits) == min(others)


def test_within_a_limit_slower_ways_to_a_place_give_way_to_cheaper_ones_and_the_other_way_round() -> None:
    """Longer chains, on which many ways lead to each place and few of them count."""
    random = Random(3)

    def drawn(rows: int, width: int, most: int) -> list[list[float]]:
        return [[float(random.randint(0, most)) for _ in range(width)] for _ in range(rows)]

    for _ in range(60):
        best, latency = (ChainMetric(drawn(4, 6, 20), drawn(3, 7, 9)) for _ in range(2))
        ways = [(path_cost(*latency, splits), path_cost(*best, splits)) for splits in all_splits(best)]
        fastest = min(ways)[0]
        for most in range(int(fastest), int(fastest) + 30, 6):
            found = search_within_limit(best, Limit(latency, most))
            assert found.cost == min(cost for used, cost in ways if used <= most)


def test_a_limit_that_just_holds_is_not_broken_by_rounding() -> None:
    assert 0.1 + 0.2 > 0.3
    assert search_within_limit(ChainMetric([[1.0, 1.0]], []), Limit(ChainMetric([[0.1, 0.2]], []), 0.3)) is not None


def test_what_nodes_settle_for_may_leave_nothing_to_those_before_them() -> None:
    """The second node prefers 9 s to 1 s, for its energy; then the first one's 5 s are too many."""
    latency = ChainMetric([[5.0, 50.0], [50.0, 9.0], [50.0, 1.0]], [[0.0] * 3, [0.0] * 3])
    energy = ChainMetric([[0.0, 0.0], [0.0, 0.0], [0.0, 9.0]], [[0.0] * 3, [0.0] * 3])
    assert search_accumulated(energy, [Limit(latency, 11.0)]) is None
    assert search_within_limit(energy, Limit(latency, 11.0)).splits == [1, 1]
    assert search(*latency).cost == 6


@pytest.mark.parametrize("method", [objectives.search_per_edge, search_accumulated, search_within_limit])
def test_a_relay_that_may_compute_nothing_leaves_the_optimum_to_the_others(method):
    """A slow UE, a relay, and a fast server behind it: 3 + 50 ms at the UE and in transfers, 130 at the UE alone."""
    latency = ChainMetric([[3.0, 127.0], [inf, inf], [9.0, 0.0]], [[60.0, 25.0, 0.0], [60.0, 25.0, 0.0]])
    limit = Limit(latency, 1e9)
    found = method(latency, limit if method is search_within_limit else [limit])
    assert found.splits == [1, 1]
    assert found.cost == pytest.approx(53)


@pytest.mark.parametrize("method", [objectives.search_per_edge, search_accumulated])
def test_of_equal_splits_the_later_one_is_found(method):
    free = ChainMetric([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0, 0.0]])
    assert method(free, []).splits == [2]
    assert method(free, [Limit(free, 1.0)]).splits == [2]
