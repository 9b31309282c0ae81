"""``bench split PLAN.yaml``: the best split of a strictly read plan.

The cost of a split is its compute, plus 8 * bytes / rate + delay for each link used. For training, parameter moves
and ties see ``nodes.splitting.search``. Times in seconds, sizes in bytes, energy in joules.
"""

from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from bench.suite.document import Key, read
from bench.suite.strict_yaml import convert
from nodes.imports import did_you_mean
from nodes.splitting.search import move_s, search, transfer_s
from nodes.wire.split_costs import message_bytes

Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]  # bounded, as rates are, so that no cost overflows
NodeName = Annotated[str, msgspec.Meta(min_length=1)]
Metric = Literal["latency", "energy"]


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
    parameter_bytes: list[Amount] = []  # [L], moved if the split changes from current_splits
    current_splits: list[Annotated[int, msgspec.Meta(ge=0)]] = []  # [P-1], layers done when leaving each node
    energy_j: dict[str, list[Amount]] = {}  # {node: [L]}
    objective: dict[Metric, Amount] | Metric = "latency"  # weights by metric, or the only metric


def run_split(path: Path) -> dict[str, Any]:
    """Search the best split of the plan at ``path``; ready for JSON.

    ``cost_s`` is its cost, ``splits`` [P-1] the layers done when leaving nodes 1 to P-1, ``sci_bytes`` [P-1] the
    size of the split-cost message that travels upstream over each link. Raises InputError.
    """
    plan = read_plan(path)
    split = search(*plan_costs(plan))
    sci_bytes = [message_bytes(node, len(plan.boundary_bytes) - 1) for node in plan.nodes[1:]]
    return {"cost_s": split.cost, "splits": split.splits, "sci_bytes": sci_bytes}


def read_plan(path: Path) -> SplitPlan:
    """Read and check the plan at ``path``. Raises InputError with every error found."""
    document = read(path)
    plan = convert(document, SplitPlan)
    if plan is not None:
        for key, message in _contradictions(plan):
            document.problem(key, message)
    document.check()
    assert plan is not None
    return plan


def plan_costs(plan: SplitPlan) -> tuple[list[list[float]], list[list[float]]]:
    """Weighted costs of each layer on each node [P][L] and of each boundary on each link [P-1][L+1].

    The objective combines metrics linearly (HiveMind, Eq. 11). Energy is that of computing alone.
    """
    latency, energy = _weight(plan, "latency"), _weight(plan, "energy")
    none = [0.0] * len(plan.compute_s[plan.nodes[0]])
    layer_costs = []
    for node in plan.nodes:
        columns = (plan.compute_s[node], plan.backward_s.get(node, none), plan.energy_j.get(node, none))
        costs = zip(*columns, strict=True)
        layer_costs.append([latency * (forward + backward) + energy * joules for forward, backward, joules in costs])
    link_costs = [[latency * seconds for seconds in _link_s(plan, p)] for p in range(len(plan.links))]
    return layer_costs, link_costs


def _link_s(plan: SplitPlan, p: int) -> list[float]:
    link = plan.links[p]
    seconds = transfer_s(plan.boundary_bytes, link.rate_bps, link.delay_s, plan.gradient_bytes or None)
    if not plan.parameter_bytes:
        return seconds
    moves = move_s(plan.parameter_bytes, plan.current_splits[p], link.rate_bps, link.delay_s)
    return [transfer + move for transfer, move in zip(seconds, moves, strict=True)]


def _weight(plan: SplitPlan, metric: Metric) -> float:
    if isinstance(plan.objective, str):
        return float(plan.objective == metric)
    return plan.objective.get(metric, 0.0)


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
    if plan.parameter_bytes or plan.current_splits:
        yield from _length(("parameter_bytes",), plan.parameter_bytes, layers, "one per layer")
        yield from _length(("current_splits",), plan.current_splits, links, "one fewer than nodes")
    for p, split in enumerate(plan.current_splits):
        least = max([0, *plan.current_splits[:p]])
        if not least <= split <= layers:
            yield ("current_splits", p), f"{split} layers done is not between {least} and {layers}"
    yield from _objective(plan)


def _objective(plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    if plan.energy_j:
        yield from _table("energy_j", plan.energy_j, plan)
    elif _weight(plan, "energy"):
        yield ("energy_j",), "this key is required for an objective with energy"
    if not _weight(plan, "latency") and not _weight(plan, "energy"):
        yield ("objective",), "needs a weight above 0"


def _table(key: str, table: dict[str, list[float]], plan: SplitPlan) -> Iterator[tuple[Key, str]]:
    """The (key, message) of every error in ``table`` {node: [L]}."""
    for node in plan.nodes:
        if node not in table:
            yield (key, node), "this node is missing"
    for node, values in table.items():
        if node not in plan.nodes:
            yield (key, node), f"no node has this name{did_you_mean(node, plan.nodes)}"
        yield from _length((key, node), values, len(plan.boundary_bytes) - 1, "one fewer than boundary_bytes")


def _length(key: Key, values: Sized, expected: int, why: str) -> Iterator[tuple[Key, str]]:
    if len(values) != expected:
        yield key, f"has {len(values)} entries, needs {expected} ({why})"
