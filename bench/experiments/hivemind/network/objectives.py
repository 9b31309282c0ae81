"""Latency and energy of split inference by objective (HiveMind, figure 18 and section V).

Each task is split by its network's rates under one objective; all objectives see the same times. Units are the
paper's, milliseconds and joules of a batch of tasks, since W of Eq. 12 depends on them.
"""

from collections.abc import Callable, Iterator
from functools import cache
from math import inf
from statistics import fmean

from bench.experiments.common.distribution import spread
from bench.experiments.common.threads import one_thread
from bench.experiments.hivemind.network.energy import Meter, inference_meter
from bench.experiments.hivemind.network.inference import InferenceParameters, field_of, trace_latencies_ms
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, update_times
from bench.experiments.hivemind.network.tasks import Decide, Field, Splits, present, tasks
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Positive
from netem.cellular.iab import IabRoute
from nodes.splitting.objectives import (
    ChainMetric,
    Limit,
    search_accumulated,
    search_per_edge,
    search_within_limit,
    weighted_sum,
)
from nodes.splitting.search import BestSplit, search

TIE_SHARE = 1e-9  # of the whole model on the costliest node: far below any difference, far above rounding

Choose = Callable[[ChainMetric, ChainMetric], Splits]  # from latency in ms and energy in joules a batch
Costs = Callable[[IabRoute, tuple[float, ...]], tuple[ChainMetric, ChainMetric]]  # the two at the rates of links


class ObjectiveParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``energy_weight`` of the linear combination: at 1 latency and energy of the UE alone weigh the same.

    ``weights`` are further ones, for the curve of what it takes.
    """

    limit_ms: Positive = 120.0
    energy_weight: Positive = 1.0
    weights: tuple[Positive, ...] = ()


def objectives(parameters: ObjectiveParameters, context: Context) -> Iterator[Measurement]:
    """Latency, energy and deadline misses of every objective."""
    field = field_of(parameters, context)
    meter = inference_meter(parameters, field)
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    energy_j = {}
    costs = costs_at(field, meter)
    with one_thread():
        for objective, choose in ways(parameters, field, meter).items():
            traces = tasks(field, decided(costs, choose), present(field), times_s)
            case = {"objective": objective}
            latency_ms = trace_latencies_ms(traces)
            energy_j[objective] = [meter.tasks * meter.spent_j(one) for one in traces]
            yield from spread("latency_ms", latency_ms, "ms", case)
            yield from spread("energy_j", energy_j[objective], "J", case)
            missed = fmean(value > parameters.limit_ms for value in latency_ms)
            yield Measurement("deadline_miss_rate", missed, "fraction", case)
            yield Measurement("computing_nodes", fmean(sum(map(bool, one.layers)) for one in traces), "nodes", case)
    exact_j, accumulated_j = fmean(energy_j["exact"]), fmean(energy_j["accumulated"])
    for objective, values in energy_j.items():
        yield Measurement("energy_over_exact", fmean(values) / exact_j, "1", {"objective": objective})
    for weight in parameters.weights:
        linear = decided(costs, linear_combination(field, meter, weight))
        traces = tasks(field, linear, present(field), times_s)
        linear_j = meter.tasks * fmean(map(meter.spent_j, traces))
        at_weight = {"weight": weight}
        yield Measurement("linear_latency_ms", fmean(trace_latencies_ms(traces)), "ms", at_weight)
        yield Measurement("linear_energy_j", linear_j, "J", at_weight)
        yield Measurement("linear_over_exact", linear_j / exact_j, "1", at_weight)
        yield Measurement("saving_over_linear", 1 - accumulated_j / linear_j, "fraction", at_weight)


def linear_combination(field: Field, meter: Meter, weight: float) -> Choose:
    """The choice by latency and energy added with ``weight`` (Eq. 11)."""
    ms_a_joule = weight * 1e3 * sum(field.layer_s["ue"]) / (meter.tasks * sum(meter.layer_j["ue"]))
    return lambda latency, energy: search(*weighted_sum([latency, energy], [1.0, ms_a_joule])).splits


def ways(parameters: ObjectiveParameters, field: Field, meter: Meter) -> dict[str, Choose]:
    """Each objective's choice of splits from the costs in latency and energy."""
    limit_ms = parameters.limit_ms

    def within(kind: Callable[[ChainMetric, list[Limit]], BestSplit | None]) -> Choose:
        def choose(latency: ChainMetric, energy: ChainMetric) -> Splits:
            found = kind(energy, [Limit(latency, limit_ms)])
            return (found or search(*latency)).splits  # the fastest if none meets the limit

        return choose

    return {
        "latency": lambda latency, energy: search(*latency).splits,
        "energy": lambda latency, energy: search(*handing_on(energy)).splits,
        "linear": linear_combination(field, meter, parameters.energy_weight),
        "per-edge": within(search_per_edge),
        "accumulated": within(search_accumulated),
        "exact": within(lambda energy, limits: search_within_limit(energy, limits[0])),
    }


def handing_on(costs: ChainMetric) -> ChainMetric:
    """``costs`` by which a node hands on what costs the same further on: Algorithm 1's argmin takes the first stop.

    Joules of the core and the cloud do not count, so that energy alone leaves open which of them computes.
    """
    little, last = TIE_SHARE * max(sum(row) for row in costs.layers if inf not in row), len(costs.layers) - 1
    layers = [[cost + little * (last - node) for cost in row] for node, row in enumerate(costs.layers)]
    return ChainMetric(layers, costs.links)


def costs_at(field: Field, meter: Meter) -> Costs:
    """Latency in milliseconds and energy in joules of a batch at given rates, each moment's once for all objectives."""
    may = MAY_COMPUTE["hivemind"]

    @cache
    def costs(route: IabRoute, rates: tuple[float, ...]) -> tuple[ChainMetric, ChainMetric]:
        latency = weighted_sum([ChainMetric(field.node_s(route, may), field.link_s(rates))], [1e3])
        return latency, weighted_sum([meter.costs(route, rates)], [meter.tasks])

    return costs


def decided(costs: Costs, choose: Choose) -> Decide:
    """Decide by the costs at given rates."""
    return lambda route, rates: choose(*costs(route, tuple(rates)))
