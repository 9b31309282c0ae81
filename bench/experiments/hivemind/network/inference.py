"""Latency of split inference in HiveMind's networks, against inference in one place (figures 11(a) to 15).

Every task is split by the rates during its update (see ``tasks``); all strategies see the same network at the same
times. Times are virtual and depend on the seed alone.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Literal

from bench.experiments.common.distribution import spread
from bench.experiments.general.cellular import NetworkParameters
from bench.experiments.hivemind.network import scenario
from bench.experiments.hivemind.network.many_tasks import Foresight, Tasks, latencies_ms, many_tasks, play
from bench.experiments.hivemind.network.scenario import ASSUMED, Machine, SplitStrategy, Unstated
from bench.experiments.hivemind.network.tasks import Field, TaskTrace
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count, Duration, Positive, WorkloadName
from netem.cellular.iab import IabRoute
from netem.cellular.network import Network
from nodes.splitting.search import sink_costs, split_node
from reports.record import CaseValue


class TaskParameters(NetworkParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tasks`` over ``duration_s`` of a network, on machines that have what is ``unstated`` in the paper."""

    tasks: Count = 600
    unstated: Unstated = ASSUMED


class InferenceParameters(TaskParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks of a packaged ``workload``."""

    workload: WorkloadName = WorkloadName("resnet18-88")


class LatencyParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Splits go by the ``forecast`` of rates: as at the update, or as they will be at the task (section IV-F)."""

    forecast: Literal["present", "exact"] = "present"


class CapabilityParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Machines of the kind ``improved`` are ``factor`` times as fast."""

    improved: Machine = "iab"
    factor: Positive = 1.0


class HandoverParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The handover from ``leaving`` to ``entering``, with ``window_s`` on either side."""

    leaving: str = "iab1"
    entering: str = "iab2"
    window_s: Duration = 10.0

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from attempt(("entering",), find_handover, self.make(0), self)  # cells serve alike for all seeds


def latency(parameters: LatencyParameters, context: Context) -> Iterator[Measurement]:
    """Latency by strategy, HiveMind's saving against each, and the time of its updates."""
    field = field_of(parameters, context)
    by_strategy = {strategy: played(field, strategy, parameters, context) for strategy in scenario.MAY_COMPUTE}
    latency_ms = {strategy: latencies_ms(parts) for strategy, parts in by_strategy.items()}
    means = {strategy: fmean(values) for strategy, values in latency_ms.items()}
    for strategy, parts in by_strategy.items():
        case: dict[str, CaseValue] = {"strategy": strategy}
        yield from spread("latency_ms", latency_ms[strategy], "ms", case)
        nodes = fmean(count for part in parts for count in part.computing_nodes())
        yield Measurement("computing_nodes", nodes, "nodes", case)
        if strategy != "hivemind":
            yield Measurement("saving_share", 1 - means["hivemind"] / means[strategy], "fraction", case)
        yield Measurement("relative_efficiency", means["ue"] / means[strategy], "1", case)
    yield Measurement("split_update_ms", fmean(updates_ms(by_strategy["hivemind"])), "ms")
    yield Measurement("sci_bytes", field.sci_bytes, "B")
    yield Measurement("mean_output_kb", fmean(scenario.profiles(parameters.workload)["ue"].output_bytes) / 1e3, "kB")


def capability(parameters: CapabilityParameters, context: Context) -> Iterator[Measurement]:
    """Latency with faster machines of one kind, and the gain over the original ones."""
    as_they_are = field_of(parameters, context)
    improved = field_of(parameters, context, {parameters.improved: parameters.factor})
    strategies: tuple[SplitStrategy, ...] = ("hivemind",)
    if parameters.improved == "cloud":
        strategies = ("hivemind", "single-split", "cloud")
    for strategy in strategies:
        played_by = (played(field, strategy, parameters, context) for field in (as_they_are, improved))
        before, after = (fmean(latencies_ms(parts)) for parts in played_by)
        yield Measurement("latency_ms", after, "ms", {"strategy": strategy})
        yield Measurement("gain_share", 1 - after / before, "fraction", {"strategy": strategy})


def handover(parameters: HandoverParameters, context: Context) -> Iterator[Measurement]:
    """Latency and each node's layers over time, before and after a handover that lengthens the route."""
    field = field_of(parameters, context)
    at_s, before, after = find_handover(parameters.make(context.seed), parameters)
    step_s = 2 * parameters.window_s / parameters.tasks
    times_s = [at_s - parameters.window_s + (index + 0.5) * step_s for index in range(parameters.tasks)]
    traces = many_tasks(field, "hivemind", times_s)
    passed = dict.fromkeys([*before.nodes, *after.nodes])
    names = [name for name in passed if any(computed(one, name) for one in traces)]
    names.sort(key=lambda name: depth(name, before, after))
    buckets = 40
    for bucket in range(buckets):
        ours = traces[bucket * len(traces) // buckets : (bucket + 1) * len(traces) // buckets]
        case: dict[str, CaseValue] = {"time_s": round((bucket + 0.5) * 2 * parameters.window_s / buckets, 3)}
        yield Measurement("window_latency_ms", fmean(trace_latencies_ms(ours)), "ms", case)
        for name in names:
            yield Measurement("layers", fmean(computed(one, name) for one in ours), "layers", {**case, "node": name})
    sides = {
        side: [one for one in traces if one.route == route] for side, route in (("before", before), ("after", after))
    }
    for side, ours in sides.items():
        yield from spread("latency_ms", trace_latencies_ms(ours), "ms", {"side": side})
        yield Measurement("hops", len(ours[0].route.links), "hops", {"side": side})
    shared = [name for name in before.nodes if name in after.nodes and name != "ue"]
    means = {side: [fmean(computed(one, name) for one in ours) for name in shared] for side, ours in sides.items()}
    moved = sum(abs(one - other) for one, other in zip(means["after"], means["before"], strict=True))
    yield Measurement("moved_layers", moved, "layers")
    differing = sum(stops_differ(field, before, after, time_s) for time_s in times_s)
    yield Measurement("differing_stops", differing, "nodes")


def field_of(parameters: InferenceParameters, context: Context, faster: dict[Machine, float] | None = None) -> Field:
    """The field of machines and network of ``parameters``."""
    net = parameters.make(context.seed)
    return scenario.make_field(net, parameters.workload, parameters.unstated, faster)


def played(field: Field, strategy: SplitStrategy, parameters: InferenceParameters, context: Context) -> list[Tasks]:
    """The tasks of ``strategy``, each split by the rates during its update."""
    times_s = scenario.update_times(parameters.duration_s, parameters.tasks, context.seed)
    exact = isinstance(parameters, LatencyParameters) and parameters.forecast == "exact"
    return play(field, strategy, times_s, Foresight() if exact else None)


def trace_latencies_ms(traces: Sequence[TaskTrace]) -> list[float]:
    return [round(1e3 * one.latency_s, 6) for one in traces]  # to the nanosecond: float sums differ below it


def updates_ms(parts: Sequence[Tasks]) -> list[float]:
    """Milliseconds of each update, from its start at the last node until the UE has its split."""
    return [one for part in parts for one in (1e3 * (part.updated_s[:, 0] - part.updated_s[:, -1])).tolist()]


def computed(trace: TaskTrace, name: str) -> int:
    """Layers that the node ``name`` computed; 0 if it is not on the route."""
    return dict(zip(trace.route.nodes, trace.layers, strict=True)).get(name, 0)


def find_handover(net: Network, parameters: HandoverParameters) -> tuple[float, IabRoute, IabRoute]:
    """The time of the first handover between the two cells, and the routes before and after. Raises ValueError."""
    routes = net.routes()
    for (_, before), (at_s, after) in pairwise(routes):
        if (before.nodes[1], after.nodes[1]) == (parameters.leaving, parameters.entering):
            return at_s, before, after
    raise ValueError(f"no handover from {parameters.leaving} to {parameters.entering} within {net.duration_s} s")


def depth(name: str, before: IabRoute, after: IabRoute) -> int:
    """The sort key of a node by its distance to the cloud; shared nodes come last."""
    return -max(len(route.nodes) - route.nodes.index(name) for route in (before, after) if name in route.nodes)


def stops_differ(field: Field, before: IabRoute, after: IabRoute, at_s: float) -> int:
    """Nodes on both routes whose stops differ; HiveMind says none, as a split depends on later nodes alone."""
    tables = []
    for route in (before, after):
        rates = [field.links[link].rate_bps(at_s) for link in route.links]
        node_s, link_s = field.node_s(route, scenario.MAY_COMPUTE["hivemind"]), field.link_s(rates)
        downstream, stops = sink_costs(len(node_s[0])), {}
        for node in range(len(route.nodes) - 1, 0, -1):
            split = split_node(node_s[node], link_s[node - 1], downstream)
            downstream, stops[route.nodes[node]] = split.cost, split.stop
        tables.append(stops)
    return sum(tables[0][name] != tables[1][name] for name in tables[0].keys() & tables[1].keys())
