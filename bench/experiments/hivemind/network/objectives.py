"""What does it cost to keep tasks below 120 ms while saving energy? HiveMind's figure 18 and section V.

Each task is split by its network's rates under one objective; all objectives see the same moments. Units are the
paper's, milliseconds and joules of a batch of tasks, since W of Eq. 12 is not free of them.
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

Two = Callable[[ChainMetric, ChainMetric], Splits]  # of latency in ms and of energy in joules a batch


class ObjectiveParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limit on latency. ``energy_weight``: milliseconds that a joule of a batch weighs in the linear combination.

    The paper does not state its weights; ours let latency and energy of the UE alone count as much as each other.
    """

    limit_ms: Positive = 120.0
    energy_weight: NonNegative | None = None


def objectives(parameters: ObjectiveParameters, context: Context) -> Iterator[Measurement]:
    """Latency and energy of every objective, and how often its tasks came late."""
    field = field_of(parameters, context)
    meter = inference_meter(parameters.kind, field, parameters.workload)
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    energy_j = {}
    with one_thread():
        for objective, choose in ways(parameters, field, meter).items():
            journeys = tasks(field, decided(field, meter, choose), present(field), times_s)
            case = {"objective": objective}
            latency_ms = latencies_ms(journeys)
            energy_j[objective] = [TASKS_A_BATCH * meter.spent_j(one) for one in journeys]
            yield from spread("latency_ms", latency_ms, "ms", case)
            yield from spread("energy_j", energy_j[objective], "J", case)
            yield Measurement(
                "deadline_miss_rate", fmean(value > parameters.limit_ms for value in latency_ms), "fraction", case
            )
            yield Measurement("computing_nodes", fmean(sum(map(bool, one.layers)) for one in journeys), "nodes", case)
    exact_j = fmean(energy_j["exact"])
    for objective, values in energy_j.items():
        yield Measurement("energy_over_exact", fmean(values) / exact_j, "1", {"objective": objective})


def ways(parameters: ObjectiveParameters, field: Field, meter: Meter) -> dict[str, Two]:
    """How each objective chooses from the costs in latency and in energy."""
    limit_ms, weight = parameters.limit_ms, parameters.energy_weight
    if weight is None:
        weight = 1e3 * sum(field.layer_s["ue"]) / (TASKS_A_BATCH * sum(meter.layer_j["ue"]))

    def linear(latency: ChainMetric, energy: ChainMetric) -> Splits:
        return search(*weighted_sum([latency, energy], [1.0, weight])).splits

    def within(kind: Callable[[ChainMetric, list[Limit]], BestSplit | None]) -> Two:
        def choose(latency: ChainMetric, energy: ChainMetric) -> Splits:
            found = kind(energy, [Limit(latency, limit_ms)])
            return (found or search(*latency)).splits  # where nothing keeps the limit, the fastest

        return choose

    return {
        "latency": lambda latency, energy: search(*latency).splits,
        "energy": lambda latency, energy: search(*energy).splits,
        "linear": linear,
        "per-edge": within(search_per_edge),
        "accumulated": within(search_accumulated),
        "exact": within(lambda energy, limits: search_within_limit(energy, limits[0])),
    }


def decided(field: Field, meter: Meter, choose: Two) -> Decide:
    """Choose from what the rates mean in milliseconds, and in joules of a batch."""
    may = MAY_COMPUTE["hivemind"]

    def decide(route: IabRoute, rates: Sequence[float]) -> Splits:
        latency = weighted_sum([ChainMetric(field.node_s(route, may), field.link_s(rates))], [1e3])
        energy = weighted_sum([meter.costs(route, rates)], [float(TASKS_A_BATCH)])
        return choose(latency, energy)

    return decide
