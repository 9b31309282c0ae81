"""``bench split PLAN.yaml``: the best split of a strictly read plan.

The cost of a split is its compute, plus 8 * bytes / rate + delay for each link used. For training, parameter moves
and ties see ``nodes.splitting.search``. Times in seconds, sizes in bytes, energy in joules.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bench.cli.profile import place_profiles
from bench.suite.document import Document, InputError, Key, read
from bench.suite.strict_yaml import convert
from nodes.imports import did_you_mean
from nodes.splitting.objectives import ChainMetric, Limit, search_within, weighted_sum
from nodes.splitting.search import BestSplit, move_s, path_cost, search, transfer_s
from nodes.splitting.throughput import search_throughput, stops_within
from nodes.wire.split_costs import message_bytes

Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]  # bounded, as rates are, so that no cost overflows
NodeName = Annotated[str, msgspec.Meta(min_length=1)]
Metric = Literal["latency", "energy"]
UNITS: dict[Metric, str] = {"latency": "s", "energy": "J"}


class PlanLink(msgspec.Struct, frozen=True):
    rate_bps: Annotated[float, msgspec.Meta(ge=1e-9)]
    delay_s: Amount


class SplitPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of P nodes and L layers: each node's time for each layer, each link's for each boundary."""

    nodes: Annotated[list[NodeName], msgspec.Meta(min_length=1)]
    compute_s: dict[str, list[Amount]]  # {node: [L]}
    boundary_bytes: Annotated[list[Amount], msgspec.Meta(min_length=2)]  # [L+1]: the input, each layer's result
    links: list[PlanLink] = []  # [P-1]
    backward_s: dict[str, list[Amount]] = {}  # {node: [L]}, in training
    gradient_bytes: list[Amount] = []  # [L+1], what returns for each boundary in training
    parameter_bytes: list[Amount] = []  # [L], held by the layer's node, moved if the split changes
    current_splits: list[Annotated[int, msgspec.Meta(ge=0)]] = []  # [P-1], layers done when leaving each node
    energy_j: dict[str, list[Amount]] = {}  # {node: [L]}
    # Weights by metric, or the only metric; throughput: the slowest stage of a pipeline, in seconds.
    objective: dict[Metric, Amount] | Metric | Literal["throughput"] = "latency"
    limits: dict[Metric, Amount] = {}  # the most of each metric
    memory_bytes: dict[str, Amount] = {}  # {node: the most parameter_bytes it holds}; others hold any


def run_split(path: Path) -> dict[str, Any]:
    """Search the best split of the plan at ``path``; ready for JSON.

    ``cost_s`` is its cost, ``splits`` [P-1] the layers done when leaving nodes 1 to P-1, ``sci_bytes`` [P-1] the
    size of the split-cost message that travels upstream over each link. A plan with limits or for throughput is also
    told ``latency_s``, and ``energy_j`` if it has energies. Raises InputError, also if no split is within the limits.
    """
    document, plan = _read(path)
    split = search_plan(plan)
    if split is None:
        raise InputError([_none_fits(document, plan)])
    sci_bytes = [message_bytes(node, len(plan.boundary_bytes) - 1) for node in plan.nodes[1:]]
    found = {"cost_s": split.cost, "splits": split.splits, "sci_bytes": sci_bytes}
    if plan.limits or plan.objective == "throughput":
        found["latency_s"] = path_cost(*plan_metric(plan, "latency"), split.splits)
        if plan.energy_j:
            found["energy_j"] = path_cost(*plan_metric(plan, "energy"), split.splits)
    return found


def read_plan(path: Path) -> SplitPlan:
    """Read and check the plan at ``path``. Raises InputError with every error found."""
    return _read(path)[1]


def layers_of(plan: SplitPlan, splits: Sequence[int]) -> list[str]:
    """A line for each node with the layers that it computes, counted from 1."""
    ends = [0, *splits, len(plan.boundary_bytes) - 1]
    spans = [
        "no layer" if first == last else f"layer {last}" if first + 1 == last else f"layers {first + 1} to {last}"
        for first, last in pairwise(ends)
    ]
    width = max(map(len, plan.nodes))
    return [f"{node:<{width}}  {span}" for node, span in zip(plan.nodes, spans, strict=True)]


def plan_metric(plan: SplitPlan, metric: Metric) -> ChainMetric:
    """Seconds, or joules of computing alone, of each layer on each node [P][L] and each boundary on each link."""
    if metric == "energy":
        free = [[0.0] * len(plan.boundary_bytes) for _ in plan.links]
        return ChainMetric([plan.energy_j[node] for node in plan.nodes], free)
    return ChainMetric(_node_s(plan), [_link_s(plan, link) for link in range(len(plan.links))])


def plan_stages(plan: SplitPlan) -> ChainMetric:
    """Seconds [P][L] that layers keep nodes busy, and [P-1][L+1] that boundaries keep links busy while they send.

    Gradients travel in the opposite direction: the slower of both counts.
    """
    ways = [sizes for sizes in (plan.boundary_bytes, plan.gradient_bytes) if sizes]
    links = [
        list(map(max, zip(*(transfer_s(sizes, link.rate_bps, 0.0) for sizes in ways), strict=True)))
        for link in plan.links
    ]
    if not plan.boundary_bytes[-1]:
        links = [[*row[:-1], 0.0] for row in links]
    return ChainMetric(_node_s(plan), links)


def _read(path: Path) -> tuple[Document, SplitPlan]:
    document = read(path)
    place_profiles(document)
    plan = convert(document, SplitPlan)
    if plan is not None:
        for key, message in _contradictions(plan):
            document.problem(key, message)
    document.check()
    assert plan is not None
    return document, plan


def plan_costs(plan: SplitPlan) -> ChainMetric:
    """What the objective adds up, or, for throughput, its stages."""
    if plan.objective == "throughput":
        return plan_stages(plan)
    used = [metric for metric in UNITS if _weight(plan, metric)]
    return weighted_sum([plan_metric(plan, metric) for metric in used], [_weight(plan, metric) for metric in used])


def search_plan(plan: SplitPlan, costs: ChainMetric | None = None) -> BestSplit | None:
    """The best split by ``costs`` (None: the plan's own); None if none is within the limits."""
    costs = costs or plan_costs(plan)
    limits = [Limit(plan_metric(plan, metric), bound) for metric, bound in plan.limits.items()]
    rooms = _last_stops(plan)
    if plan.objective == "throughput":
        return search_throughput(costs, plan_metric(plan, "latency"), limits, rooms)
    return search_within(costs, limits, rooms) if limits or rooms else search(*costs)


def _last_stops(plan: SplitPlan) -> list[list[int]] | None:
    """The last boundary that each node can reach within its memory, by that at which it begins."""
    if not plan.memory_bytes:
        return None
    everything = sum(plan.parameter_bytes)
    return [stops_within(plan.parameter_bytes, plan.memory_bytes.get(node, everything)) for node in plan.nodes]


def _none_fits(document: Document, plan: SplitPlan) -> str:
    rooms = _last_stops(plan)
    least = {metric: search_within(plan_metric(plan, metric), [], rooms) for metric in plan.limits}
    if rooms and search_within(plan_metric(plan, "latency"), [], rooms) is None:
        return str(document.at(("memory_bytes",), "no split keeps each node within its bytes; raise some"))
    reached = ", ".join(f"{metric} {one.cost:.6g} {UNITS[metric]}" for metric, one in least.items() if one)
    return str(document.at(("limits",), f"no split is within them; the least of each alone is {reached}"))


def _node_s(plan: SplitPlan) -> list[list[float]]:
    if not plan.backward_s:
        return [plan.compute_s[node] for node in plan.nodes]
    both = ((plan.compute_s[node], plan.backward_s[node]) for node in plan.nodes)
    return [[forward + backward for forward, backward in zip(*rows, strict=True)] for rows in both]


def _link_s(plan: SplitPlan, p: int) -> list[float]:
    link = plan.links[p]
    seconds = transfer_s(plan.boundary_bytes, link.rate_bps, link.delay_s, plan.gradient_bytes or None)
    if not plan.current_splits:
        return seconds
    moves = move_s(plan.parameter_bytes, plan.current_splits[p], link.rate_bps, link.delay_s)
    return [transfer + move for transfer, move in zip(seconds, moves, strict=True)]


def _weight(plan: SplitPlan, metric: Metric) -> float:
    if isinstance(plan.objective, dict):
        return plan.objective.get(metric, 0.0)
    return float(plan.objective == metric)


def _contradictions(plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    layers, links = len(plan.boundary_bytes) - 1, len(plan.nodes) - 1
    for p, node in enumerate(plan.nodes):
        if node in plan.nodes[:p]:
            yield ("nodes", p), f"{node!r} is named twice"
    yield from _table("compute_s", plan.compute_s, plan)
    yield from _length(("links",), plan.links, links, "one fewer than nodes")
    if plan.backward_s:
        yield from _table("backward_s", plan.backward_s, plan)
    if plan.gradient_bytes:
        yield from _length(("gradient_bytes",), plan.gradient_bytes, layers + 1, "as many as boundary_bytes")
    if plan.parameter_bytes or plan.current_splits or plan.memory_bytes:
        yield from _length(("parameter_bytes",), plan.parameter_bytes, layers, "one per layer")
    if plan.current_splits or (plan.parameter_bytes and not plan.memory_bytes):
        yield from _length(("current_splits",), plan.current_splits, links, "one fewer than nodes")
    for p, split in enumerate(plan.current_splits):
        least = max([0, *plan.current_splits[:p]])
        if not least <= split <= layers:
            yield ("current_splits", p), f"{split} layers done is not between {least} and {layers}"
    yield from _strangers("memory_bytes", plan.memory_bytes, plan)
    yield from _objective(plan)


def _objective(plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    if plan.energy_j:
        yield from _table("energy_j", plan.energy_j, plan)
    elif _weight(plan, "energy") or "energy" in plan.limits:
        yield ("energy_j",), "this key is required for an objective or a limit with energy"
    if plan.objective == "throughput":
        if plan.current_splits:
            yield ("current_splits",), "moves are paid once and no part of a throughput; leave one of both out"
    elif not any(_weight(plan, metric) for metric in UNITS):
        yield ("objective",), "needs a weight above 0"


def _table(key: str, table: dict[str, list[float]], plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    """The (key, message) of every error in ``table`` {node: [L]}."""
    for node in plan.nodes:
        if node not in table:
            yield (key, node), "this node is missing"
    yield from _strangers(key, table, plan)
    for node, values in table.items():
        yield from _length((key, node), values, len(plan.boundary_bytes) - 1, "one fewer than boundary_bytes")


def _strangers(key: str, table: Iterable[str], plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    for node in table:
        if node not in plan.nodes:
            yield (key, node), f"no node has this name{did_you_mean(node, plan.nodes)}"


def _length(key: Key, values: Sized, expected: int, why: str) -> Iterator[tuple[Key, str]]:
    if len(values) != expected:
        yield key, f"has {len(values)} entries, needs {expected} ({why})"
