"""The graphs of all splits, counted and searched beside the split search; Algorithm 1 as printed; Fig. 2."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from measured import values
from msgspec.structs import replace

from bench.experiments.hivemind import solver as experiment
from bench.experiments.hivemind.solver import printed_search
from bench.experiments.hivemind.split_graphs import FullGraph, full_size, options, relay_size
from bench.suite.experiment import Context, Measurement
from nodes.splitting.search import path_cost, search
from nodes.wire.codec import encode
from nodes.wire.messages import SplitCost

SMALL = [(1, 1), (1, 4), (2, 1), (2, 3), (3, 2), (4, 5)]


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=3, mode="virtual", dataset="none")


def of(measured: list[Measurement], metric: str, **case: object) -> float:
    (value,) = values(measured, metric, **case)
    return value


@pytest.mark.parametrize(("nodes", "layers"), SMALL)
def test_the_edges_of_the_full_graph_are_those_of_equations_5_and_6(nodes: int, layers: int) -> None:
    numbers = range(1, layers + 1)
    vertices = [(p, m, n) for p in range(1, nodes + 1) for m in numbers for n in numbers if m <= n]
    edges = [
        (one, other)
        for one, other in product(vertices, vertices)
        if one[0] < other[0] and other[1] == one[2] + 1 and (other[2] == layers or other[0] < nodes)
    ]
    assert full_size(nodes, layers).edges == len(edges)
    graph = FullGraph(nodes, layers).weighted(np.ones((nodes, layers)), np.ones((nodes - 1, layers + 1)))
    assert graph.nnz == len(edges) + 2 * nodes * layers  # one from the start to each first layer, one to the end
    graph.sum_duplicates()
    assert graph.nnz == len(edges) + 2 * nodes * layers


@pytest.mark.parametrize(("nodes", "layers"), [size for size in SMALL if size[0] > 1])
def test_the_edges_with_relays_join_neighbours_alone(nodes: int, layers: int) -> None:
    spans = [(i, j) for i in range(layers + 1) for j in range(i, layers + 1)]  # i == j relays
    one_hop = [(one, other) for one, other in product(spans, spans) if one[1] == other[0]]
    last_hop = [pair for pair in one_hop if pair[1][1] == layers]
    assert relay_size(nodes, layers).edges == (nodes - 2) * len(one_hop) + len(last_hop)
    assert relay_size(nodes, layers).values == len(spans)


def test_the_papers_counts_for_resnet50_on_five_nodes() -> None:
    assert options(5, 174) == pytest.approx(4.0e7, rel=0.02)
    assert full_size(5, 174).messages == pytest.approx(3e6, rel=0.1)
    assert full_size(5, 174).edges == pytest.approx(5.3e6, rel=0.01)  # and not the 4.5e5 of section IV-C


@settings(max_examples=60)
@given(st.data(), st.integers(1, 4), st.integers(1, 6))
def test_the_search_costs_what_the_full_graphs_shortest_path_does(data: st.DataObject, nodes: int, layers: int) -> None:
    numbers = st.floats(0, 10, width=32)
    layer_costs = data.draw(
        st.lists(st.lists(numbers, min_size=layers, max_size=layers), min_size=nodes, max_size=nodes)
    )
    row = st.lists(numbers, min_size=layers + 1, max_size=layers + 1)
    link_costs = data.draw(st.lists(row, min_size=nodes - 1, max_size=nodes - 1))
    full = FullGraph(nodes, layers)
    shortest = full.least_cost(full.weighted(layer_costs, link_costs))
    assert search(layer_costs, link_costs).cost == pytest.approx(shortest, rel=1e-9, abs=1e-9)


def test_algorithm_1_as_printed_settles_for_20_where_18_is_the_least(context: Context) -> None:
    assert printed_search(*experiment.COUNTER_EXAMPLE) == (20, [0, 2])
    assert search(*experiment.COUNTER_EXAMPLE) == (18, [1, 2])
    measured = list(experiment.printed(experiment.PrintedParameters(chains=20, layers=9), context))
    assert of(measured, "wrong_share") > 0
    assert of(measured, "largest_excess") >= of(measured, "mean_excess") > 0


def test_figure_2_in_hand_counted_numbers(context: Context) -> None:
    measured = list(experiment.figure2(experiment.NoParameters(), context))
    assert of(measured, "latency_units", capacity=1.0, architecture="multi") == pytest.approx(float(Fraction(34, 15)))
    for tenths in range(1, 9):
        multi = {"capacity": tenths / 10, "architecture": "multi"}
        assert of(measured, "latency_units", **multi) == pytest.approx(0.6 + 5.5 / 3)
        assert (of(measured, "layers_done", node="ue", **multi), of(measured, "layers_done", node="mec", **multi)) == (
            0,
            3,
        )
    assert of(measured, "latency_units", capacity=0.5, architecture="last two on the MEC") == pytest.approx(
        0.5 + 0.5 + 5 / 3
    )
    assert of(measured, "latency_units", capacity=0.1, architecture="ue") == 5.5
    assert of(measured, "latency_units", capacity=0.1, architecture="cloud") == pytest.approx(0.6 + 12 + 0.55)
    assert of(measured, "latency_units", capacity=0.4, architecture="single") == pytest.approx(0.5 + 0.5 + 2.5 + 0.5)
    assert of(measured, "switch_capacity_units") == pytest.approx(6 / 7)


def test_sizes_are_those_of_the_models_chain_and_the_encoded_message(context: Context) -> None:
    measured = list(experiment.sizes(experiment.GraphSizeParameters(model="resnet18", side=32), context))
    layers = int(of(measured, "layers", granularity="op"))
    assert of(measured, "layers", granularity="module") == 52
    assert of(measured, "values", granularity="op", graph="sci") == layers + 1
    message = SplitCost(assignment=0, node="cloud", tensors={"cost_s": torch.zeros(layers + 1)})
    assert of(measured, "message_bytes") == len(b"".join(encode(message)))


def test_speeds_are_measured_beside_scipys(context: Context) -> None:
    parameters = experiment.SpeedParameters(repeats=1, update_layers=50, central=(4, 20), graph=(3, 20))
    measured = list(experiment.speed(parameters, context))
    assert of(measured, "relative_difference") < 1e-12
    ratios = [of(measured, "ratio_to_scipy", of=kind) for kind in ("path", "costs and path", "everything")]
    assert 0 < ratios[0] < ratios[1] < ratios[2]
    assert of(measured, "node_update_s") > 0
    assert of(measured, "central_s") > 0


def test_two_edges_of_70_ms_pass_a_limit_of_120_ms_per_edge(context: Context) -> None:
    ms, joules = experiment.TWO_EDGES_MS, experiment.TWO_EDGES_J
    assert path_cost(*ms, [1]) == 70 + (50 + 20)
    assert (path_cost(*ms, [2]), path_cost(*joules, [2])) == (100, 9)
    measured = list(experiment.two_edges(experiment.NoParameters(), context))
    assert of(measured, "latency_ms", objective="per edge") == 140
    for objective in ("accumulated", "exact"):
        assert of(measured, "latency_ms", objective=objective) == 100
        assert of(measured, "energy_j", objective=objective) == 9
