"""Placement under storage limits against brute force: all splits, what they cost and what they hold told anew."""

from itertools import combinations, combinations_with_replacement, pairwise, product
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.splitting import placement
from nodes.splitting.placement import ServerPath, place_layers, search_within_storage
from nodes.splitting.search import path_cost

Case = dict[str, Any]


def numbers(count: int, most: int) -> Any:
    return st.lists(st.integers(0, most), min_size=count, max_size=count)


@st.composite
def chains(draw: st.DrawFn) -> Case:
    """Small chains of small whole numbers, so that equal optima and tight limits are common, and infinite costs."""
    nodes, layers = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    some = st.lists(st.sampled_from([0, 0, 1, 2, 3, inf]), min_size=layers + 1, max_size=layers + 1)
    return {
        "layer_costs": [draw(some)[1:] for _ in range(nodes)],
        "link_costs": [draw(some) for _ in range(nodes - 1)],
        "held_bytes": draw(numbers(layers, 3)),
        "storage_bytes": draw(numbers(nodes, 8)),
    }


def held(splits: tuple[int, ...], held_bytes: list[int]) -> list[int]:
    """What each node holds."""
    return [sum(held_bytes[start:stop]) for start, stop in pairwise((0, *splits, len(held_bytes)))]


@settings(max_examples=300)
@given(chains(), st.sampled_from([1.0, 0.1, 1 / 3]))
def test_of_all_splits_that_fit_the_best_one_that_is_ahead_is_found(case: Case, scale: float) -> None:
    layers, nodes = len(case["held_bytes"]), len(case["storage_bytes"])
    oracle = {
        splits: path_cost(case["layer_costs"], case["link_costs"], splits)
        for splits in combinations_with_replacement(range(layers + 1), nodes - 1)
        if all(a <= b for a, b in zip(held(splits, case["held_bytes"]), case["storage_bytes"], strict=True))
    }
    layer_costs, link_costs = (
        [[scale * cost for cost in row] for row in case[kind]] for kind in ("layer_costs", "link_costs")
    )
    found = search_within_storage(layer_costs, link_costs, case["held_bytes"], case["storage_bytes"])
    least = min(oracle.values(), default=inf)
    if least == inf:
        assert found == (inf, [])
        return
    optima = [splits for splits, cost in oracle.items() if cost == least]
    assert found.cost == pytest.approx(scale * least, rel=1e-14)
    assert tuple(found.splits) in optima
    for other in optima:
        assert all(mine >= theirs for mine, theirs in zip(found.splits, other, strict=True))


@settings(max_examples=100)
@given(st.integers(1, 7).flatmap(lambda count: numbers(count, 3)), st.integers(0, 9))
def test_runs_are_those_that_fit_and_cannot_grow(held_bytes: list[int], storage: int) -> None:
    layers = len(held_bytes)
    runs = combinations(range(layers + 1), 2)
    fit = {(low, high) for low, high in runs if sum(held_bytes[low:high]) <= storage}
    longest = {(low, high) for low, high in fit if not {(low - 1, high), (low, high + 1)} & fit}
    assert set(placement.longest_runs(held_bytes, storage)) == (longest or {(0, 0)})


@st.composite
def trees(draw: st.DrawFn) -> Case:
    """Two or three edges below one server, and a cloud that holds all."""
    edges, layers = draw(st.integers(2, 3)), draw(st.integers(1, 3))
    metro, cloud = draw(numbers(layers, 3)), draw(numbers(layers, 3))
    paths = []
    for edge in range(edges):
        layer_costs, link_costs = [draw(numbers(layers, 3)), metro, cloud], [draw(numbers(layers + 1, 4)) for _ in "ab"]
        paths.append(ServerPath((f"edge{edge}", "metro", "cloud"), layer_costs, link_costs))
    sizes = draw(numbers(layers, 3))
    storage = {server: draw(st.integers(0, 6)) for server in (*(f"edge{edge}" for edge in range(edges)), "metro")}
    return {"paths": paths, "held_bytes": sizes, "storage_bytes": {**storage, "cloud": sum(sizes)}}


@settings(max_examples=150)
@given(trees())
def test_paths_that_share_a_server_are_placed_together(case: Case) -> None:
    paths, sizes, storage = case["paths"], case["held_bytes"], case["storage_bytes"]
    layers = len(sizes)
    least = inf
    for chosen in product(combinations_with_replacement(range(layers + 1), 2), repeat=len(paths)):
        edges = all(sum(sizes[:first]) <= storage[f"edge{edge}"] for edge, (first, _) in enumerate(chosen))
        metro = [split for split in chosen if split[0] < split[1]]
        run = sizes[min((low for low, _ in metro), default=0) : max((high for _, high in metro), default=0)]
        if edges and sum(run) <= storage["metro"]:
            costs = [path_cost(path.layer_costs, path.link_costs, s) for path, s in zip(paths, chosen, strict=True)]
            least = min(least, sum(costs))
    found = place_layers(paths, sizes, storage)
    assert found.cost == pytest.approx(least)
    placed = zip(paths, found.splits, strict=True)
    assert sum(path_cost(path.layer_costs, path.link_costs, s) for path, s in placed) == pytest.approx(least)
    for server, (low, high) in found.stored.items():
        assert sum(sizes[low:high]) <= storage[server]
    for path, (first, second) in zip(paths, found.splits, strict=True):
        for server, low, high in zip(path.servers, (0, first, second), (first, second, layers), strict=True):
            assert low == high or (found.stored[server][0] <= low and high <= found.stored[server][1])


def test_a_model_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="no placement fits"):
        place_layers([ServerPath(("edge", "cloud"), [[1.0], [1.0]], [[0.0, 0.0]])], [4], {"edge": 3, "cloud": 3})
