"""Speed of the split search, size of its messages, and the error of Algorithm 1, on random costs; runs no network."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from math import inf
from random import Random
from typing import Any

import msgspec

from bench.experiments.common.learning import layers_of, sample_of, unused_side
from bench.experiments.hivemind.split_graphs import FullGraph, full_size, options, relay_size, sci_size
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count, ModelName
from nodes.spec.job import Granularity, InputSpec
from nodes.splitting.objectives import ChainMetric, Limit, search_accumulated, search_per_edge, search_within_limit
from nodes.splitting.search import BestSplit, NodeSplit, follow_stops, path_cost, search, sink_costs, split_node
from nodes.wire.split_costs import message_bytes
from reports.record import CaseValue

ChainCosts = tuple[list[list[float]], list[list[float]]]  # costs of layers [P][L] and of boundaries [P-1][L+1]
CaseKey = dict[str, CaseValue]


class SpeedParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Repetitions, layers of the one node, and (nodes, layers) of the chains."""

    repeats: Count = 9
    update_layers: Count = 515  # ResNet-152's
    central: tuple[Count, Count] = (1000, 1000)
    graph: tuple[Count, Count] = (5, 174)  # as the paper counts ResNet-50's layers


def speed(parameters: SpeedParameters, context: Context) -> Iterator[Measurement]:
    """Medians of one node's update and of a search over a whole chain, and the ratio of scipy's to ours."""
    random = Random(context.seed)
    layers, links = random_chain(random, 2, parameters.update_layers)
    case: CaseKey = {"layers": parameters.update_layers}
    update_s = [seconds(lambda: split_node(layers[0], links[0], links[0])) for _ in range(20 * parameters.repeats)]
    yield Measurement("node_update_s", statistics.median(update_s), "s", case)
    chain = random_chain(random, *parameters.central)
    case = dict(zip(("nodes", "layers"), parameters.central, strict=True))
    central_s = [seconds(lambda: search(*chain)) for _ in range(parameters.repeats)]
    yield Measurement("central_s", statistics.median(central_s), "s", case)
    yield from beside_scipy(random_chain(random, *parameters.graph), parameters.repeats)


def beside_scipy(chain: ChainCosts, repeats: int) -> Iterator[Measurement]:
    """Our seconds and scipy's, in turn, so that both meet the same load.

    ``ratio_to_scipy`` is scipy's time over ours: for the shortest path in a graph with costs ("path"), with filling in
    the edges' costs ("costs and path"), and from the chain's costs alone, as in ours ("everything").
    """
    case: CaseKey = {"nodes": len(chain[0]), "layers": len(chain[0][0])}
    full = FullGraph(len(chain[0]), len(chain[0][0]))
    weighted = full.weighted(*chain)
    theirs, ours = full.least_cost(weighted), search(*chain).cost
    yield Measurement("relative_difference", abs(theirs - ours) / ours, "1", case)
    parts: dict[str, list[float]] = {"edges": [], "costs": [], "path": [], "ours": []}
    for _ in range(repeats):
        parts["ours"].append(statistics.median(seconds(lambda: search(*chain)) for _ in range(20)))
        parts["path"].append(seconds(lambda: full.least_cost(weighted)))
        parts["costs"].append(seconds(lambda: full.weighted(*chain)))
    parts["edges"].append(seconds(lambda: FullGraph(len(chain[0]), len(chain[0][0]))))
    median_s = {part: statistics.median(times) for part, times in parts.items()}
    for part, value in median_s.items():
        yield Measurement("part_s", value, "s", case | {"part": part})
    costs_s = median_s["costs"] + median_s["path"]
    theirs_s = {"path": median_s["path"], "costs and path": costs_s, "everything": median_s["edges"] + costs_s}
    for kind, value in theirs_s.items():
        yield Measurement("ratio_to_scipy", value / median_s["ours"], "1", case | {"of": kind})


class GraphSizeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``model`` for one picture 3 x ``side`` x ``side``, or ``input``, split over ``nodes``."""

    model: ModelName = ModelName("resnet152")
    side: Count = 224
    input: InputSpec | None = None
    nodes: Count = 5

    def problems(self, _setting: Setting) -> Iterator[Problem]:
        yield from () if self.input is None else [unused_side("side")]
        yield from attempt(("model",), layers_of, str(self.model), 1000, sample_of(self.side, self.input))


def sizes(parameters: GraphSizeParameters, context: Context) -> Iterator[Measurement]:
    """Layers, options, edges, messages and bytes of the full graph, the graph with relays, and SCI."""
    sample = sample_of(parameters.side, parameters.input)
    counts: dict[Granularity, int] = {
        granularity: len(layers_of(str(parameters.model), 1000, sample, granularity))
        for granularity in ("op", "module")
    }
    for granularity, count in counts.items():
        yield Measurement("layers", count, "layers", {"granularity": granularity})
        yield Measurement("options", options(parameters.nodes, count), "1", {"granularity": granularity})
        for graph, size in (("full", full_size), ("relay", relay_size), ("sci", sci_size)):
            case: CaseKey = {"granularity": granularity, "graph": graph}
            for metric, value in size(parameters.nodes, count)._asdict().items():
                yield Measurement(metric, value, metric, case)
    yield Measurement("message_bytes", message_bytes("cloud", counts["op"]), "B")


class NoParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """No parameters."""


LOADS, SIZES, SPEEDS = (0.5, 1, 4), (1.2, 1, 4, 0), (1, 3, 10)  # layers, boundaries (no result is sent), nodes
ARCHITECTURES = {"ue": (0,), "cloud": (2,), "single": (0, 2), "edge": (0, 1), "multi": (0, 1, 2)}


def figure2(parameters: NoParameters, context: Context) -> Iterator[Measurement]:
    """Section III, Fig. 2: three layers over UE, MEC and cloud, by the capacity of the link from MEC to cloud."""
    for tenths in range(10, 0, -1):
        chain = figure2_chain(tenths / 10)
        for name, computing in ARCHITECTURES.items():
            split = restricted(chain, computing)
            case: CaseKey = {"capacity": tenths / 10, "architecture": name}
            yield Measurement("latency_units", split.cost, "units", case)
            for node, done in zip(("ue", "mec"), split.splits, strict=True):
                yield Measurement("layers_done", done, "layers", case | {"node": node})
        text = path_cost(*chain, [1, 3])
        case = {"capacity": tenths / 10, "architecture": "last two on the MEC"}
        yield Measurement("latency_units", text, "units", case)
    low, high = 0.1, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if search(*figure2_chain(middle)).splits == [0, 3] else (low, middle)
    yield Measurement("switch_capacity_units", high, "units")


def figure2_chain(capacity: float) -> ChainCosts:
    """The example's costs: loads over speeds, sizes over capacities."""
    return (
        [[load / speed for load in LOADS] for speed in SPEEDS],
        [[size / rate for size in SIZES] for rate in (2.0, capacity)],
    )


def restricted(chain: ChainCosts, computing: tuple[int, ...]) -> BestSplit:
    """The best split of ``chain`` with layers only on the nodes ``computing``; the others relay."""
    layer_costs, link_costs = chain
    held = [row if node in computing else [inf] * len(row) for node, row in enumerate(layer_costs)]
    return search(held, link_costs)


# Fig. 7's weight function on two nodes and two layers in ms and J: 100 ms and 9 J on the UE alone; cut in the
# middle, 70 ms on either side and 2 J in total.
TWO_EDGES_MS = ChainMetric([[70.0, 30.0], [300.0, 20.0]], [[50.0, 50.0, 0.0]])
TWO_EDGES_J = ChainMetric([[1.0, 8.0], [0.0, 0.0]], [[1.0, 1.0, 0.0]])


def two_edges(parameters: NoParameters, context: Context) -> Iterator[Measurement]:
    """Section V, Eq. 12: two edges of 70 ms pass a limit of 120 ms if W checks them one by one."""
    limit = Limit(TWO_EDGES_MS, 120.0)
    found = {
        "per edge": search_per_edge(TWO_EDGES_J, [limit]),
        "accumulated": search_accumulated(TWO_EDGES_J, [limit]),
        "exact": search_within_limit(TWO_EDGES_J, limit),
    }
    for objective, split in found.items():
        assert split is not None  # the UE alone meets the limit
        yield Measurement("latency_ms", path_cost(*TWO_EDGES_MS, split.splits), "ms", {"objective": objective})
        yield Measurement("energy_j", path_cost(*TWO_EDGES_J, split.splits), "J", {"objective": objective})


class PrintedParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number and size of the random chains."""

    chains: Count = 500
    nodes: Count = 5
    layers: Count = 52  # ResNet-18's leaf modules


COUNTER_EXAMPLE: ChainCosts = ([[9, 20], [6, 5], [2, 9]], [[9, 4, 0], [3, 2, 0]])


def printed(parameters: PrintedParameters, context: Context) -> Iterator[Measurement]:
    """Cost of Algorithm 1 as printed against the optimum, in one example and over random chains."""
    for algorithm, split in (("printed", printed_search(*COUNTER_EXAMPLE)), ("ours", search(*COUNTER_EXAMPLE))):
        yield Measurement("example_cost", split.cost, "1", {"algorithm": algorithm})
    random = Random(context.seed)
    ratios = []
    for _ in range(parameters.chains):
        chain = random_chain(random, parameters.nodes, parameters.layers)
        ratios.append(printed_search(*chain).cost / search(*chain).cost)
    yield Measurement("wrong_share", sum(ratio > 1 + 1e-9 for ratio in ratios) / len(ratios), "fraction")
    yield Measurement("mean_excess", statistics.mean(ratios) - 1, "fraction")
    yield Measurement("largest_excess", max(ratios) - 1, "fraction")


def random_chain(random: Random, nodes: int, layers: int) -> ChainCosts:
    """A chain with costs uniform in (0, 1); the last boundary costs nothing."""
    layer_costs = [[random.random() for _ in range(layers)] for _ in range(nodes)]
    return layer_costs, [[*(random.random() for _ in range(layers)), 0.0] for _ in range(nodes - 1)]


def seconds(run: Callable[[], Any]) -> float:
    """The seconds that ``run`` takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def printed_node(layer_cost: Sequence[float], link_cost: Sequence[float], downstream: Sequence[float]) -> NodeSplit:
    """HiveMind's Algorithm 1 of one node in O(L^2), which does not always return the optimum; kept to show its error.

    For each z up to the stop of i, lines 10 to 14 set zeta_z = zeta_i - sum(tau_i..tau_z). This keeps the transfer
    epsilon_i instead of z's own, and subtracts one layer too many; only the latter is corrected here. Boundary i is
    the paper's first layer i + 1. A node may compute nothing (j = i), as the paper's text requires.
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
