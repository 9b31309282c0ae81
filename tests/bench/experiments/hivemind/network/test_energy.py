"""Energy by hand: who counts, what a radio takes, what gradients bring back, and layers that move."""

from math import inf

import numpy as np
import pytest

from bench.experiments.general.cellular import generated
from bench.experiments.hivemind.network.energy import (
    Meter,
    inference_meter,
    moves,
    moving,
    rerouted,
    train,
    training_meter,
)
from bench.experiments.hivemind.network.inference import InferenceParameters
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, fastest, make_field, profiles
from bench.experiments.hivemind.network.tasks import Field, present, tasks
from bench.suite.parameter_types import WorkloadName
from netem.cellular.iab import IabRoute
from nodes.costs.devices import MMWAVE_RECEIVING, MMWAVE_SENDING, RASPBERRY_PI_3BP

ONE = IabRoute(("ue", "iab1", "iab3", "iab6", "mec7", "mec8", "cloud"), ("access", "A", "C", "F", "G", "H"))
OTHER = IabRoute(
    ("ue", "iab2", "iab4", "iab5", "iab6", "mec7", "mec8", "cloud"), ("access", "B", "D", "E", "F", "G", "H")
)
WORKLOAD = "resnet18-88"
GIVEN = InferenceParameters(workload=WorkloadName(WORKLOAD))


class Steady:
    """Links that never change."""

    coherence_s = 1.0

    def __init__(self, rate_bps: float = 50e6) -> None:
        self.rates_bps = {name: np.full(1000, rate_bps) for name in (*ONE.links, *OTHER.links)}
        self.at = ONE

    def route(self, t: float) -> IabRoute:
        return self.at if t < 500 else OTHER


def field() -> Field:
    kept = make_field(generated("mmwave", "mid", 0.05, 12.0, 3), WORKLOAD)
    return Field(Steady(), kept.layer_s, kept.frame_bytes, kept.sci_bytes, kept.delay_s)


def test_the_ue_alone_spends_its_power_and_no_radio():
    ours = field()
    (trace,) = tasks(ours, fastest(ours, "ue"), present(ours), [0.0])
    spent_j = inference_meter(GIVEN, ours).spent_j(trace)
    assert spent_j == pytest.approx(RASPBERRY_PI_3BP.power_w * trace.latency_s)


def test_the_cloud_costs_three_wireless_hops_of_which_both_ends_count():
    ours = field()
    (trace,) = tasks(ours, fastest(ours, "cloud"), present(ours), [0.0])
    size = ours.frame_bytes[0]
    hop_j = sum(radio.transfer_j(size, 50e6) for radio in (MMWAVE_SENDING, MMWAVE_RECEIVING))
    assert inference_meter(GIVEN, ours).spent_j(trace) == pytest.approx(3 * hop_j)


@pytest.mark.parametrize("strategy", list(MAY_COMPUTE))
def test_what_a_plan_costs_is_what_is_spent_on_links_that_never_change(strategy):
    ours = field()
    meter = inference_meter(GIVEN, ours)
    (trace,) = tasks(ours, fastest(ours, strategy), present(ours), [0.0])
    costs = meter.costs(ONE, [50e6] * len(ONE.links))
    done = [0, *trace.splits, len(ours.frame_bytes) - 1]
    layers = sum(sum(row[done[node] : done[node + 1]]) for node, row in enumerate(costs.layers))
    links = sum(row[split] for row, split in zip(costs.links, trace.splits, strict=True))
    assert meter.spent_j(trace) == pytest.approx(layers + links)


def test_over_sub6_the_ue_alone_counts():
    ours = field()
    meter = Meter("sub6", ours, {"ue": [1.0] * 52}, 1.0)
    route = IabRoute(("ue", "gnb", "mec", "cloud"), ("A", "B", "C"))
    assert meter.link_j(route, 0, 1000, 1e6) > 0
    assert meter.link_j(route, 1, 1000, 1e6) == meter.link_j(route, 2, 1000, 1e6) == 0
    assert meter.costs(route, [1e6] * 3).layers[1] == [inf] * 52


def test_gradients_come_back_as_far_as_layers_are_held():
    ours = field()
    kept = profiles(WORKLOAD)
    meter = training_meter(GIVEN, ours)
    splits = [10, 10, 30, 30, 30, 30]
    trace = ours.trace(ONE, [0.0] * 7, splits)
    back = ours.gradient_hops(
        trace,
        {"ue": kept["ue"].backward_s, "iab3": kept["iab"].backward_s, "cloud": kept["cloud"].backward_s},
        meter.gradient_bytes,
    )
    assert [hop.link for hop in back] == ["H", "G", "F", "C", "A", "access"]
    sizes = kept["ue"].boundary_bytes
    assert [hop.n_bytes for hop in back] == [sizes[30]] * 4 + [sizes[10]] * 2
    whole = ours.trace(ONE, [0.0] * 7, [0, 52, 52, 52, 52, 52])
    assert ours.gradient_hops(whole, {"iab1": kept["iab"].backward_s}, meter.gradient_bytes) == []


BEFORE = [0.0, 10.0, 10.0, 40.0, 100.0]  # bytes of parameters before each boundary of four layers


def test_layers_cross_each_link_between_their_old_and_new_node():
    crossing = moves(ONE, BEFORE, [0, 2, 4, 4, 4, 4], [1, 2, 3, 4, 4, 4])
    assert [(move.link, move.n_bytes) for move in crossing] == [(0, 10.0), (2, 60.0)]


def test_the_price_of_moving_is_what_moving_takes():
    meter = inference_meter(GIVEN, field())
    rates = [50e6] * 6
    old, new = [0, 2, 4, 4, 4, 4], [1, 1, 3, 3, 4, 4]
    prices = moving(meter, ONE, rates, BEFORE, old)
    planned = sum(row[split] for row, split in zip(prices, new, strict=True))
    spent = sum(meter.move_j(move.route, move.link, move.n_bytes, 0.0) for move in moves(ONE, BEFORE, old, new))
    assert planned == pytest.approx(spent)
    assert sum(row[split] for row, split in zip(prices, old, strict=True)) == 0


def test_on_another_route_layers_stay_where_they_can_and_go_to_the_first_shared_node():
    splits, forced = rerouted((ONE, [1, 3, 3, 3, 4, 4]), OTHER, BEFORE)
    assert splits == [1, 1, 1, 1, 3, 4, 4]  # iab1's layers 1 and 2 wait at iab6 with what it has; mec7 has the last
    assert [(move.route.links[move.link], move.n_bytes) for move in forced] == [("A", 30.0), ("C", 30.0)]
    assert rerouted((ONE, [4] * 6), OTHER, BEFORE) == ([4] * 7, [])
    assert rerouted((ONE, [0, 1, 2, 3, 4, 4]), ONE, BEFORE) == ([0, 1, 2, 3, 4, 4], [])


def test_dear_moves_keep_an_assignment_and_a_handover_forces_them():
    ours = field()
    meter = training_meter(GIVEN, ours)
    batches = train(meter, profiles(WORKLOAD), MAY_COMPUTE["edge"], [0.0, 10.0, 600.0, 610.0])
    assert [batch.moved_bytes > 0 for batch in batches] == [False, False, True, False]
    parameters = 4 * sum(profiles(WORKLOAD)["ue"].parameters)
    assert (
        batches[2].moved_bytes == 2 * parameters + 3 * parameters
    )  # iab1 to iab6 over two links, on to iab2 over three
    still = train(meter, profiles(WORKLOAD), MAY_COMPUTE["cloud"], [0.0, 600.0])
    assert [batch.moves_j for batch in still] == [0, 0]
    assert still[0].tasks_j == pytest.approx(meter.tasks * meter.spent_j(still[0].trace))
