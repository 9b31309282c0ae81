"""Latency and energy of split inference by objective (HiveMind, figure 18 and section V).

Each task is split by its network's rates under one objective; all objectives see the same times. Units are the
paper's, milliseconds and joules of a batch of tasks, since W of Eq. 12 depends on them.
"""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from bench.experiments.common.distribution import spread
from bench.experiments.common.threads import one_thread
from bench.experiments.hivemind.network.energy import TASKS_A_BATCH, Meter, inference_meter
from bench.experiments.hivemind.network.inference import InferenceParameters, field_of, latencies_ms
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, update_times
from bench.experiments.hivemind.network.tasks import Decide, Field, Splits, present, tasks
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import NonNegative, Positive
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

Choose = Callable[[ChainMetric, ChainMetric], Splits]  # from latency in ms and energy in joules a batch


class ObjectiveParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``energy_weight``: milliseconds a joule of a batch, by default that of the UE alone, as the paper states none."""

    limit_ms: Positive = 120.0
    energy_weight: NonNegative | None = None


def objectives(parameters: ObjectiveParameters, context: Context) -> Iterator[Measurement]:
    """Latency, energy and deadline misses of every objective."""
    field = field_of(parameters, context)
    meter = inference_meter(parameters.kind, field, parameters.workload)
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    energy_j = {}
    with one_thread():
        for objective, choose in ways(parameters, field, meter).items():
            traces = tasks(field, decided(field, meter, choose), present(field), times_s)
            case = {"objective": objective}
            latency_ms = latencies_ms(traces)
            energy_j[objective] = [TASKS_A_BATCH * meter.spent_j(one) for one in traces]
            yield from spread("latency_ms", latency_ms, "ms", case)
            yield from spread("energy_j", energy_j[objective], "J", case)
            missed = fmean(value > parameters.limit_ms for value in latency_ms)
            yield Measurement("deadline_miss_rate", missed, "fraction", case)
            yield Measurement("computing_nodes", fmean(sum(map(bool, one.layers)) for one in traces), "nodes", case)
    exact_j = fmean(energy_j["exact"])
    for objective, values in energy_j.items():
        yield Measurement("energy_over_exact", fmean(values) / exact_j, "1", {"objective": objective})


def ways(parameters: ObjectiveParameters, field: Field, meter: Meter) -> dict[str, Choose]:
    """Each objective's choice of splits from the costs in latency and energy."""
    limit_ms, weight = parameters.limit_ms, parameters.energy_weight
    if weight is None:
        weight = 1e3 * sum(field.layer_s["ue"]) / (TASKS_A_BATCH * sum(meter.layer_j["ue"]))

    def linear(latency: ChainMetric, energy: ChainMetric) -> Splits:
        return search(*weighted_sum([latency, energy], [1.0, weight])).splits

    def within(kind: Callable[[ChainMetric, list[Limit]], BestSplit | None]) -> Choose:
        def choose(latency: ChainMetric, energy: ChainMetric) -> Splits:
            found = kind(energy, [Limit(latency, limit_ms)])
            return (found or search(*latency)).splits  # the fastest if none meets the limit

        return choose

    return {
        "latency": lambda latency, energy: search(*latency).splits,
        "energy": lambda latency, energy: search(*energy).splits,
        "linear": linear,
        "per-edge": within(search_per_edge),
        "accumulated": within(search_accumulated),
        "exact": within(lambda energy, limits: search_within_limit(energy, limits[0])),
    }


def decided(field: Field, meter: Meter, choose: Choose) -> Decide:
    """Decide by the costs at given rates, in milliseconds and joules of a batch."""
    may = MAY_COMPUTE["hivemind"]

    def decide(route: IabRoute, rates: Sequence[float]) -> Splits:
        latency = weighted_sum([ChainMetric(field.node_s(route, may), field.link_s(rates))], [1e3])
        energy = weighted_sum([meter.costs(route, rates)], [float(TASKS_A_BATCH)])
        return choose(latency, energy)

    return decide
