"""Energy of splitting recurrent models and learning agents by their structure (HiveMind, figure 19).

Both are split for the least energy within a limit on latency. Sequences run as tasks do (see ``tasks``): an update,
then step by step at the rates of that time. Agents' costs are those of their plans at the rates of many times. The
paper gives one size, 200 GRU modules; the others are assumptions, taken from the works that it cites.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Literal, NamedTuple

from bench.experiments.common.distribution import spread
from bench.experiments.hivemind.network import scenario
from bench.experiments.hivemind.network.energy import COUNTED, FLOAT_BYTES, Meter
from bench.experiments.hivemind.network.inference import TaskParameters
from bench.experiments.hivemind.network.tasks import Field, LinkUse, present
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count, Positive
from netem.cellular.iab import IabRoute
from netem.cellular.network import Network
from nodes.costs.devices import BACKWARD, layer_s
from nodes.splitting.objectives import ChainMetric, Limit, search_within_limit, weighted_sum
from nodes.splitting.parameter_server import charge_final_layer, layer_exchange_s, model_exchange_s
from nodes.splitting.recurrent import unrolled_bytes
from nodes.splitting.search import path_cost, search

# Split with Eq. 13 or without, costs counted by Eq. 13 or by link; and split by the bytes that each link carries.
AGENTS_WAYS = ("aware", "standard", "aware-by-link", "standard-by-link", "by-link")


class Layer(NamedTuple):
    """The work of one layer: operations, bytes moved, and bytes of its parameters."""

    flops: int
    moved_bytes: int
    parameter_bytes: int


class NonlinearParameters(TaskParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A recurrent model of ``steps`` modules; ``limit_ms`` of latency is the paper's."""

    limit_ms: Positive = 120.0
    steps: Count = 200
    features: Count = 300  # of a word: section VI-A has states in the order of what crosses elsewhere; an assumption
    hidden: Count = 300  # as in the labeller that the paper cites: an assumption
    classes: Count = 10


class RecurrentParameters(NonlinearParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Split module by module, the limit is of a pass through one ``module``, or of the whole ``sequence``."""

    limit_of: Literal["sequence", "module"] = "sequence"


class AgentParameters(NonlinearParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent of QMIX that learns from ``episodes`` of ``steps`` steps each before parameters are shared."""

    steps: Count = 60
    features: Count = 80  # what an agent observes: an assumption
    hidden: Count = 64  # as in QMIX's own experiments
    classes: Count = 14  # actions
    episodes: Positive = 1.0


class SplitCostPair(NamedTuple):
    """The cost of a split: joules of a batch, milliseconds of one task."""

    energy_j: float
    latency_ms: float


def recurrent(parameters: RecurrentParameters, context: Context) -> Iterator[Measurement]:
    """Energy of a batch of sequences, split as one chain and module by module, and deadline misses of each."""
    net = parameters.make(context.seed)
    module = [gru(parameters.features, parameters.hidden), linear(parameters.hidden, parameters.classes)]
    sizes = [FLOAT_BYTES * size for size in (parameters.features, parameters.hidden, parameters.classes)]
    chain = unrolled_bytes(parameters.steps, sizes[0], [sizes[1]], sizes[2])
    unrolled = meter_of(net, parameters, module * parameters.steps, [*chain[:-1], 0])
    repeated = meter_of(net, parameters, module, [*sizes[:-1], 0])
    limit_ms, steps = parameters.limit_ms, parameters.steps
    pass_ms = limit_ms if parameters.limit_of == "module" else limit_ms / steps
    played: dict[str, list[SplitCostPair]] = {"unrolled": [], "standard": []}
    for began_s in scenario.update_times(parameters.duration_s, parameters.tasks, context.seed):
        played["unrolled"].append(sequence(unrolled, began_s, limit_ms))
        played["standard"].append(sequence(repeated, began_s, pass_ms, steps, sizes[1]))
    yield from compared(played, "unrolled", parameters)
    slowest_ms = max(one.latency_ms for one in played["standard"]) / steps
    yield Measurement("longest_pass_ms", slowest_ms, "ms")


def agents(parameters: AgentParameters, context: Context) -> Iterator[Measurement]:
    """Energy of a batch of rounds of one agent, split with and without the cost of sending parameters to the mixer.

    By Eq. 13 the node of the last layer sends all parameters. The cost of that plan is also counted by the bytes that
    each link carries, beside the best plan under that count.
    """
    net = parameters.make(context.seed)
    steps, hidden = parameters.steps, parameters.hidden
    layers = [
        several(linear(parameters.features, hidden), 1, steps),
        several(gru(hidden, hidden), steps, 1),
        several(linear(hidden, parameters.classes), 1, steps),
    ]
    sizes = [FLOAT_BYTES * steps * size for size in (parameters.features, hidden, hidden)]
    meter = meter_of(net, parameters, layers, [*sizes, 0], training=True)
    # A round has its part of an exchange after several.
    sizes_of = [layer.parameter_bytes / parameters.episodes for layer in layers]
    hop_s = meter.field.delay_s / parameters.episodes
    plans: dict[str, list[SplitCostPair]] = {way: [] for way in AGENTS_WAYS}
    for route, rates in moments(net, parameters, context):
        energy, latency = costs(meter, route, rates)
        omega_j, omega_ms = shared(meter, route, rates, sum(sizes_of), hop_s)
        whole = ChainMetric(charge_final_layer(energy.layers, omega_j), energy.links)
        whole_ms = ChainMetric(charge_final_layer(latency.layers, omega_ms), latency.links)
        aware = within(whole, whole_ms, parameters.limit_ms)
        splits = within(energy, latency, parameters.limit_ms)
        plans["aware"].append(counted(whole, whole_ms, aware))
        plans["standard"].append(counted(whole, whole_ms, splits))
        real, real_ms = with_parameters(meter, route, rates, sizes_of, hop_s, energy, latency)
        plans["aware-by-link"].append(counted(real, real_ms, aware))
        plans["standard-by-link"].append(counted(real, real_ms, splits))
        plans["by-link"].append(plan(real, real_ms, parameters.limit_ms))
    yield from compared(plans, "aware", parameters)


def compared(
    plans: dict[str, list[SplitCostPair]], ours: str, parameters: NonlinearParameters
) -> Iterator[Measurement]:
    """Energy, latency and deadline misses of each plan, and the standard's energy relative to that of ``ours``."""
    for way, found in plans.items():
        case = {"way": way}
        yield from spread("energy_j", [one.energy_j for one in found], "J", case)
        yield from spread("latency_ms", [one.latency_ms for one in found], "ms", case)
        missed = fmean(one.latency_ms > parameters.limit_ms for one in found)
        yield Measurement("deadline_miss_rate", missed, "fraction", case)
    energies = {way: fmean(one.energy_j for one in found) for way, found in plans.items()}
    yield Measurement("efficiency_over_standard", energies["standard"] / energies[ours], "1")


def plan(energy: ChainMetric, latency: ChainMetric, limit_ms: float) -> SplitCostPair:
    """The cost of the best split within the limit; of the fastest if none meets it."""
    return counted(energy, latency, within(energy, latency, limit_ms))


def counted(energy: ChainMetric, latency: ChainMetric, splits: Sequence[int]) -> SplitCostPair:
    """The cost of ``splits``."""
    return SplitCostPair(path_cost(*energy, splits), path_cost(*latency, splits))


def within(energy: ChainMetric, latency: ChainMetric, limit_ms: float) -> list[int]:
    found = search_within_limit(energy, Limit(latency, limit_ms)) or search(*latency)
    return found.splits


def sequence(meter: Meter, began_s: float, limit_ms: float, steps: int = 1, state_bytes: int = 0) -> SplitCostPair:
    """The cost of one sequence after an update: its chain ``steps`` times, with the state returning between."""
    field = meter.field
    route = field.network.route(began_s)
    updated_s, rates = field.update(route, began_s, present(field), [0.0] * len(route.nodes))
    splits = within(*costs(meter, route, rates), limit_ms)
    at_s, joules = updated_s[0], 0.0
    for step in range(steps):
        trace = field.trace(route, [at_s], splits)
        at_s, back = trace.ended_s, list[LinkUse]()
        for hop in reversed(trace.hops if step < steps - 1 else []):
            sent_s = field.links[hop.link].sent_s(at_s, state_bytes)
            back.append(LinkUse(hop.link, state_bytes, sent_s - at_s))
            at_s = sent_s + field.delay_s
        joules += meter.spent_j(trace, back)
    return SplitCostPair(meter.tasks * joules, 1e3 * (at_s - updated_s[0]))


def shared(
    meter: Meter, route: IabRoute, rates: Sequence[float], parameter_bytes: float, hop_s: float
) -> tuple[list[float], list[float]]:
    """omega of Eq. 13 by node, in joules of a batch and in milliseconds: all parameters to the cloud and back."""
    joules = [2 * meter.tasks * meter.link_j(route, link, parameter_bytes, rate) for link, rate in enumerate(rates)]
    seconds = model_exchange_s([parameter_bytes], [(rate, hop_s) for rate in rates], server=len(rates))
    return [sum(joules[node:]) for node in range(len(route.nodes))], [1e3 * value for value in seconds]


def with_parameters(  # noqa: PLR0917 (the network at one time, and the costs so far)
    meter: Meter,
    route: IabRoute,
    rates: Sequence[float],
    parameter_bytes: Sequence[float],
    hop_s: float,
    energy: ChainMetric,
    latency: ChainMetric,
) -> tuple[ChainMetric, ChainMetric]:
    """``energy`` and ``latency``, each link charged for the parameters that cross it, in both directions."""
    held = list(accumulate(parameter_bytes, initial=0.0))
    joules = [
        [2 * meter.tasks * meter.link_j(route, link, size, rate) for size in held] for link, rate in enumerate(rates)
    ]
    seconds = layer_exchange_s(parameter_bytes, [(rate, hop_s) for rate in rates], server=len(rates))
    none = [[0.0] * len(parameter_bytes) for _ in route.nodes]
    return (
        weighted_sum([energy, ChainMetric(none, joules)], [1.0, 1.0]),
        weighted_sum([latency, ChainMetric(none, seconds)], [1.0, 1e3]),
    )


def costs(meter: Meter, route: IabRoute, rates: Sequence[float]) -> tuple[ChainMetric, ChainMetric]:
    """Joules of a batch and milliseconds."""
    field = meter.field
    seconds = [ChainMetric(field.node_s(route, scenario.MAY_COMPUTE["hivemind"]), field.link_s(rates))]
    if meter.gradient_bytes:
        none = [[0.0] * len(row) for row in seconds[0].layers]
        seconds.append(ChainMetric(none, field.link_s(rates, meter.gradient_bytes)))
    both_ways = weighted_sum(seconds, [1.0] * len(seconds))
    return weighted_sum([meter.costs(route, rates)], [meter.tasks]), weighted_sum([both_ways], [1e3])


def meter_of(
    net: Network,
    parameters: NonlinearParameters,
    layers: Sequence[Layer],
    boundary_bytes: Sequence[int],
    training: bool = False,
) -> Meter:
    """The meter of ``layers`` on the machines of ``net``; in training with backward passes."""
    passes = 1 + BACKWARD if training else 1.0
    unstated = parameters.unstated
    devices = unstated.machines()
    seconds: dict[scenario.Machine, list[float]] = {
        name: [passes * layer_s(device, layer.flops, layer.moved_bytes) for layer in layers]
        for name, device in devices.items()
    }
    names = {name for cell in net.topology.cells for name in net.topology.route(cell.name).nodes}
    by_node = {name: seconds[kind] for name in names if (kind := scenario.machine(name))}
    hops_s = unstated.data_hop_s, unstated.control_hop_s
    field = Field(net, by_node, boundary_bytes, scenario.sci_bytes(len(layers)), *hops_s)
    layer_j = {name: [devices[name].power_w * value for value in seconds[name]] for name in COUNTED}
    gradient_bytes = [0, *boundary_bytes[1:-1], 0] if training else ()
    return Meter(parameters.kind, field, layer_j, unstated.batch_tasks, gradient_bytes)


def moments(net: Network, parameters: TaskParameters, context: Context) -> Iterator[tuple[IabRoute, list[float]]]:
    """Routes and rates at the times of the tasks' updates."""
    for at_s in scenario.update_times(parameters.duration_s, parameters.tasks, context.seed):
        route = net.route(at_s)
        yield route, [net.rate_bps(link, at_s) for link in route.links]


def linear(inputs: int, outputs: int) -> Layer:
    """A fully connected layer."""
    weights = FLOAT_BYTES * (inputs * outputs + outputs)
    return Layer(2 * inputs * outputs, weights + FLOAT_BYTES * (inputs + outputs), weights)


def gru(inputs: int, hidden: int) -> Layer:
    """A GRU cell: three gates, each with weights for input and state."""
    weights = FLOAT_BYTES * (3 * hidden * (inputs + hidden) + 6 * hidden)
    return Layer(6 * hidden * (inputs + hidden), weights + FLOAT_BYTES * (inputs + 2 * hidden), weights)


def several(layer: Layer, calls: int, batch: int) -> Layer:
    """A layer called ``calls`` times, each reading the weights again, with ``batch`` inputs."""
    moved = layer.parameter_bytes + batch * (layer.moved_bytes - layer.parameter_bytes)
    return Layer(calls * batch * layer.flops, calls * moved, layer.parameter_bytes)
