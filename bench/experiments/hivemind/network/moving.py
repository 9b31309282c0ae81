"""Split training whose assignment may change at every batch, with and without the cost of moving layers (Eq. 8-9).

Figure 11(b)'s assignments hold for 1,900 tasks, beside which a move costs next to nothing, so that it never decides.
Here a batch is short: its pictures cost what they take forward and backward, and every layer that changes its node
costs what its parameters take over the links between. HiveMind adds that to the search (Eq. 9), others ignore it or
never move. Costs are seconds of the whole batch at the rates of its update.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from statistics import fmean

from bench.experiments.common.distribution import spread
from bench.experiments.hivemind.network.energy import FLOAT_BYTES, rerouted
from bench.experiments.hivemind.network.inference import InferenceParameters, field_of
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, machine, profiles, update_times
from bench.experiments.hivemind.network.tasks import Field
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count
from netem.cellular.iab import IabRoute
from nodes.splitting.objectives import ChainMetric, weighted_sum
from nodes.splitting.search import move_s, path_cost, search

Held = tuple[IabRoute, list[int]]  # a route and its splits


class MovingParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tasks`` batches of ``pictures`` each."""

    pictures: Count = 32


def moving(parameters: MovingParameters, context: Context) -> Iterator[Measurement]:
    """Seconds of a batch with its moves, and how often layers move, by whether the search counts moves."""
    field = field_of(parameters, context)
    profile = profiles(parameters.workload, parameters.unstated)["ue"]
    sizes = [float(FLOAT_BYTES * count) for count in profile.parameters]
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    for way in ("counted", "ignored", "never"):
        held: Held | None = None
        seconds, moved = [], []
        for began_s in times_s:
            route = field.network.route(began_s)
            rates = [field.links[link].rate_bps(began_s) for link in route.links]
            batch = batch_s(parameters, field, route, rates)
            held, forced_s = follow(held, route, field, sizes, began_s)
            moves = moves_s(held, rates, field, sizes)
            splits = chosen(way, batch, moves, held)
            moves_cost_s = forced_s + sum(row[split] for row, split in zip(moves, splits, strict=True))
            seconds.append(path_cost(*batch, splits) + moves_cost_s)
            moved.append(moves_cost_s > 0)
            held = route, splits
        yield from spread("batch_s", seconds, "s", {"moves": way})
        yield Measurement("moving_share", fmean(moved), "fraction", {"moves": way})


def batch_s(parameters: MovingParameters, field: Field, route: IabRoute, rates: Sequence[float]) -> ChainMetric:
    """Seconds of all pictures of a batch: layers forward and backward, boundaries there and gradients back (Eq. 8)."""
    kept = profiles(parameters.workload, parameters.unstated)
    forward = ChainMetric(field.node_s(route, MAY_COMPUTE["hivemind"]), field.link_s(rates))
    backward = [
        kept[kind].backward_s if (kind := machine(name)) else row
        for name, row in zip(route.nodes, forward.layers, strict=True)
    ]
    gradients = field.link_s(rates, [0, *field.frame_bytes[1:-1], 0])
    return weighted_sum([forward, ChainMetric(backward, gradients)], [float(parameters.pictures)] * 2)


def follow(
    held: Held | None, route: IabRoute, field: Field, sizes: Sequence[float], at_s: float
) -> tuple[Held | None, float]:
    """What is held on ``route``, and the seconds of moving the layers of nodes that it leaves."""
    if held is None:
        return None, 0.0
    splits, forced = rerouted(held, route, list(accumulate(sizes, initial=0.0)))
    rates = [field.links[move.route.links[move.link]].rate_bps(at_s) for move in forced]
    seconds = [8 * move.n_bytes / rate + field.delay_s for move, rate in zip(forced, rates, strict=True)]
    return (route, splits), sum(seconds)


def moves_s(held: Held | None, rates: Sequence[float], field: Field, sizes: Sequence[float]) -> list[list[float]]:
    """Seconds [P-1][L+1] of moving parameters over each link, by its new split; the first assignment moves nothing."""
    if held is None:
        return [[0.0] * (len(sizes) + 1) for _ in rates]
    return [move_s(sizes, split, rate, field.delay_s) for split, rate in zip(held[1], rates, strict=True)]


def chosen(way: str, batch: ChainMetric, moves: list[list[float]], held: Held | None) -> list[int]:
    """The splits of the next batch."""
    if way == "never" and held:
        return held[1]
    if way == "counted":
        still = [[0.0] * len(row) for row in batch.layers]
        return search(*weighted_sum([batch, ChainMetric(still, moves)], [1.0, 1.0])).splits
    return search(*batch).splits
