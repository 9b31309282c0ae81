"""Energy of UE and IAB nodes for a task, of split training, and of moving layers when their nodes change.

HiveMind counts the UE and the IAB MECs (section VII-B1), neither core servers and the cloud nor wired links. A
radio's power depends on its rate. In training gradients return through the same nodes, and the parameters of moved
layers travel over all hops between their old and new node (Eq. 8). Layers of a node that is not on the UE's new route
go to the first later node on both routes; the paper does not specify this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum, inf
from statistics import fmean
from typing import NamedTuple

from bench.experiments.common.distribution import spread
from bench.experiments.hivemind.network.inference import InferenceParameters, field_of
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, Machine, machine, profiles, update_times
from bench.experiments.hivemind.network.tasks import Field, LinkUse, TaskTrace, present
from bench.suite.experiment import Context, Measurement
from netem.cellular.iab import IabRoute, NetworkKind
from nodes.costs.devices import MMWAVE_RECEIVING, MMWAVE_SENDING, SUB6_RECEIVING, SUB6_SENDING
from nodes.costs.energy import Radio
from nodes.costs.profile import Profile
from nodes.splitting.objectives import ChainMetric, weighted_sum
from nodes.splitting.search import search

COUNTED: tuple[Machine, ...] = ("ue", "iab")
WIRELESS: dict[NetworkKind, tuple[str, ...]] = {"mmwave": ("access", "A", "B", "C", "D", "E"), "sub6": ("A", "B")}
RADIOS: dict[NetworkKind, tuple[Radio, Radio]] = {
    "mmwave": (MMWAVE_SENDING, MMWAVE_RECEIVING),
    "sub6": (SUB6_SENDING, SUB6_RECEIVING),
}


@dataclass(frozen=True)
class Meter:
    """The energy of tasks in a network of ``kind``; ``gradient_bytes`` [L+1] return in training.

    Batches are of ``tasks`` tasks.
    """

    kind: NetworkKind
    field: Field
    layer_j: dict[Machine, list[float]]  # of every counted machine, [L]
    tasks: float
    gradient_bytes: Sequence[int] = ()

    def link_j(self, route: IabRoute, link: int, n_bytes: float, rate_bps: float) -> float:
        """Joules of the radios at both ends of a link for ``n_bytes`` in either direction."""
        if route.links[link] not in WIRELESS[self.kind]:
            return 0.0
        ends = (machine(name) in COUNTED for name in route.nodes[link : link + 2])
        return fsum(
            radio.transfer_j(n_bytes, rate_bps) for radio, counts in zip(RADIOS[self.kind], ends, strict=True) if counts
        )

    def costs(self, route: IabRoute, rates_bps: Sequence[float]) -> ChainMetric:
        """Joules of each layer on each node [P][L] and of each boundary on each link [P-1][L+1]."""
        frames = self.field.frame_bytes
        back = self.gradient_bytes or [0] * len(frames)
        free = [0.0] * (len(frames) - 1)
        layers = []
        for name in route.nodes:
            kind = machine(name)
            layers.append([inf] * len(free) if kind is None else self.layer_j[kind] if kind in COUNTED else free)
        links = [
            [byte_j * (size + gradient) for size, gradient in zip(frames, back, strict=True)]
            for byte_j in (self.link_j(route, link, 1, rate) for link, rate in enumerate(rates_bps))
        ]
        return ChainMetric(layers, links)

    def spent_j(self, trace: TaskTrace, back: Sequence[LinkUse] = ()) -> float:
        """Joules of one task with gradients over the links ``back``."""
        route, done, spent = trace.route, 0, []
        for name, count in zip(route.nodes, trace.layers, strict=True):
            kind = machine(name)
            if kind in COUNTED:
                spent.append(fsum(self.layer_j[kind][done : done + count]))
            done += count
        for hop in (*trace.hops, *back):
            rate_bps = 8 * hop.n_bytes / hop.busy_s
            spent.append(self.link_j(route, route.links.index(hop.link), hop.n_bytes, rate_bps))
        return fsum(spent)

    def move_j(self, route: IabRoute, link: int, n_bytes: float, at_s: float) -> float:
        """Joules to move ``n_bytes`` of parameters over a link, beginning at ``at_s``."""
        busy_s = self.field.links[route.links[link]].sent_s(at_s, n_bytes) - at_s
        return self.link_j(route, link, n_bytes, 8 * n_bytes / busy_s)


def inference_meter(parameters: InferenceParameters, field: Field) -> Meter:
    """The meter of forward passes."""
    kept = profiles(parameters.workload, parameters.unstated)
    layer_j = {name: kept[name].forward_j for name in COUNTED}
    return Meter(parameters.kind, field, layer_j, parameters.unstated.batch_tasks)


FLOAT_BYTES = 4


class Batch(NamedTuple):
    """One batch: its first task, joules of all its tasks, and bytes and joules of the moves before it."""

    trace: TaskTrace
    tasks_j: float
    moved_bytes: float
    moves_j: float

    @property
    def energy_j(self) -> float:
        return self.tasks_j + self.moves_j


class ParameterTransfer(NamedTuple):
    """Bytes of parameters over one link of a route."""

    route: IabRoute
    link: int
    n_bytes: float


def training_meter(parameters: InferenceParameters, field: Field) -> Meter:
    """The meter of forward and backward passes; gradients have their boundary's size, the input has none."""
    kept = profiles(parameters.workload, parameters.unstated)
    layer_j = {
        name: [one + other for one, other in zip(kept[name].forward_j, kept[name].backward_j, strict=True)]
        for name in COUNTED
    }
    gradient_bytes = [0, *kept["ue"].boundary_bytes[1:-1], 0]
    return Meter(parameters.kind, field, layer_j, parameters.unstated.batch_tasks, gradient_bytes)


def train(
    meter: Meter,
    kept: Mapping[Machine, Profile],
    may_compute: Callable[[IabRoute, int], bool],
    times_s: Sequence[float],
) -> list[Batch]:
    """A batch at each of ``times_s``, each assigned for the least energy, including moves; ``kept`` are profiles."""
    field = meter.field
    before = list(accumulate((FLOAT_BYTES * count for count in kept["ue"].parameters), initial=0.0))
    backward_s = {name: kept[kind].backward_s for name in field.layer_s if (kind := machine(name))}
    forecast = present(field)
    batches: list[Batch] = []
    held: tuple[IabRoute, list[int]] | None = None
    for began_s in times_s:
        route = field.network.route(began_s)
        updated_s, rates = field.update(route, began_s, forecast, [0.0] * len(route.nodes))
        costs = allowed(meter, route, rates, field.node_s(route, may_compute))
        still = [[0.0] * len(row) for row in costs.layers]
        kept_splits, forced = rerouted(held, route, before) if held else (None, [])
        if kept_splits:
            moving_j = ChainMetric(still, moving(meter, route, rates, before, kept_splits))
            costs = weighted_sum([costs, moving_j], [1.0, 1.0])
        splits = search(*costs).splits
        chosen = moves(route, before, kept_splits, splits) if kept_splits else []
        trace = field.trace(route, updated_s, splits)
        back = field.gradient_hops(trace, backward_s, meter.gradient_bytes)
        all_moves = [*forced, *chosen]
        moves_j = sum(meter.move_j(move.route, move.link, move.n_bytes, began_s) for move in all_moves)
        moved_bytes = sum(move.n_bytes for move in all_moves)
        batches.append(Batch(trace, meter.tasks * meter.spent_j(trace, back), moved_bytes, moves_j))
        held = route, splits
    return batches


def allowed(meter: Meter, route: IabRoute, rates: Sequence[float], node_s: Sequence[Sequence[float]]) -> ChainMetric:
    """Joules of a batch; infinite where ``node_s`` is, for nodes that may not compute."""
    costs = meter.costs(route, rates)
    layers = [
        [meter.tasks * joules if seconds < inf else seconds for joules, seconds in zip(row, times, strict=True)]
        for row, times in zip(costs.layers, node_s, strict=True)
    ]
    return ChainMetric(layers, [[meter.tasks * joules for joules in row] for row in costs.links])


def moving(
    meter: Meter, route: IabRoute, rates: Sequence[float], before: Sequence[float], kept: Sequence[int]
) -> list[list[float]]:
    """Joules [P-1][L+1] of moving each link's split from ``kept`` to every boundary."""
    byte_j = (meter.link_j(route, link, 1, rate) for link, rate in enumerate(rates))
    return [[joules * abs(size - before[split]) for size in before] for joules, split in zip(byte_j, kept, strict=True)]


def moves(route: IabRoute, before: Sequence[float], old: Sequence[int], new: Sequence[int]) -> list[ParameterTransfer]:
    """The transfers when splits change; ``before`` [L+1] are bytes of parameters up to each boundary."""
    sizes = [abs(before[one] - before[other]) for one, other in zip(old, new, strict=True)]
    return [ParameterTransfer(route, link, size) for link, size in enumerate(sizes) if size]


def rerouted(
    held: tuple[IabRoute, list[int]], route: IabRoute, before: Sequence[float]
) -> tuple[list[int], list[ParameterTransfer]]:
    """Splits on ``route`` that keep layers in place, and the moves of those that cannot stay."""
    old, splits = held
    if old == route:
        return splits, []
    meets = next(node for node, name in enumerate(old.nodes) if node and name in route.nodes)
    first = splits[0]
    away = [ParameterTransfer(old, link, before[splits[link]] - before[first]) for link in range(1, meets)]
    shared = route.nodes.index(old.nodes[meets])
    return [first] * shared + splits[meets:], [move for move in away if move.n_bytes]


def energy(parameters: InferenceParameters, context: Context) -> Iterator[Measurement]:
    """Joules of a batch by strategy, the part for moving layers, and HiveMind's saving against each."""
    field = field_of(parameters, context)
    meter, kept = training_meter(parameters, field), profiles(parameters.workload, parameters.unstated)
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    by_strategy = {strategy: train(meter, kept, may_compute, times_s) for strategy, may_compute in MAY_COMPUTE.items()}
    means = {name: fmean(batch.energy_j for batch in batches) for name, batches in by_strategy.items()}
    for strategy, batches in by_strategy.items():
        case = {"strategy": strategy}
        yield from spread("energy_j", [batch.energy_j for batch in batches], "J", case)
        yield Measurement("moves_energy_j", fmean(batch.moves_j for batch in batches), "J", case)
        yield Measurement("batches_with_moves", sum(batch.moved_bytes > 0 for batch in batches), "batches", case)
        if strategy != "hivemind":
            yield Measurement("saving_share", 1 - means["hivemind"] / means[strategy], "fraction", case)
        yield Measurement("relative_efficiency", means["ue"] / means[strategy], "1", case)
        nodes = fmean(sum(map(bool, batch.trace.layers)) for batch in batches)
        yield Measurement("computing_nodes", nodes, "nodes", case)
