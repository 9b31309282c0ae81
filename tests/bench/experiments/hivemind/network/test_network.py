"""HiveMind's experiments against oracles: brute force over splits, one route beside another, the same seed twice."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
from measured import values
from msgspec.structs import replace

from bench.execution.loader import load
from bench.experiments.common.distribution import QUANTILES, intervals, spread
from bench.experiments.general.cellular import generated
from bench.experiments.hivemind.network import dynamics, inference
from bench.experiments.hivemind.network import recurrent as nonlinear
from bench.experiments.hivemind.network.energy import energy
from bench.experiments.hivemind.network.objectives import ObjectiveParameters, objectives
from bench.experiments.hivemind.network.scenario import Unstated, machine, make_field, nearest
from bench.experiments.hivemind.network.tasks import present
from bench.experiments.hivemind.profiles import ProfileParameters, measured
from bench.suite.experiment import Context
from bench.suite.find import packaged
from nodes.splitting.search import path_cost


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, mode="virtual", shaping="emulated", dataset="none")


SMALL = {"tasks": 12, "duration_s": 60.0}


def test_machines_stand_where_the_paper_puts_them():
    net = generated("mmwave", "mid", 0.05, 12.0, 3)
    route = net.route(0.0)
    assert [machine(name) for name in route.nodes] == ["ue", "iab", "iab", "iab", "core", "core", "cloud"]
    sub6 = generated("sub6", "mid", 0.05, 12.0, 3).route(0.0)
    assert [machine(name) for name in sub6.nodes] == ["ue", None, "core", "cloud"]
    assert (nearest(route), nearest(sub6)) == (1, 2)


def test_a_strategy_only_computes_where_it_may(context):
    found = list(inference.latency(inference.LatencyParameters(**SMALL, load="high"), context))
    assert values(found, "latency_ms", strategy="ue") == [pytest.approx(130, abs=0.5)]
    assert values(found, "computing_nodes", strategy="edge") == [1]
    best = values(found, "latency_ms", strategy="hivemind")[0]
    assert all(best <= other * 1.02 for other in values(found, "latency_ms"))
    (over_cloud,), (cloud,) = (values(found, name, strategy="cloud") for name in ("saving_share", "latency_ms"))
    assert over_cloud == pytest.approx(1 - best / cloud)


def test_faster_machines_take_less_time_and_equally_fast_ones_gain_nothing(context):
    asked = [inference.CapabilityParameters(**SMALL, factor=factor) for factor in (1.0, 10.0)]
    found = [list(inference.capability(parameters, context)) for parameters in asked]
    assert values(found[0], "gain_share") == [0]
    assert values(found[1], "latency_ms")[0] < values(found[0], "latency_ms")[0]


def test_a_handover_adds_a_hop_and_changes_no_split_behind_it(context):
    found = list(inference.handover(inference.HandoverParameters(tasks=40, duration_s=200.0), context))
    assert values(found, "hops", side="after")[0] == values(found, "hops", side="before")[0] + 1
    assert values(found, "differing_stops") == [0]
    layers = [one for one in found if one.metric == "layers"]
    times = {one.case["time_s"] for one in layers}
    assert len(times) == 40
    for time_s in times:
        assert sum(values(layers, "layers", time_s=time_s)) == pytest.approx(52)
    with pytest.raises(ValueError, match="no handover from iab1 to iab9"):
        list(inference.handover(inference.HandoverParameters(tasks=4, duration_s=60.0, entering="iab9"), context))


def test_to_foresee_exactly_is_no_worse_than_the_present_on_the_chain(context):
    found = list(dynamics.prediction(dynamics.ForesightParameters(tasks=300, duration_s=60.0), context))
    predicted, standard = (values(found, "latency_ms", way=way)[0] for way in ("predictive", "standard"))
    assert predicted < standard
    assert values(found, "spike_share", way="predictive")[0] <= values(found, "spike_share", way="standard")[0]


def test_at_an_instant_a_transfer_keeps_the_rate_of_its_start(context):
    """Eq. 10 as printed; over the changes of rates it ends when their integral has carried all bytes."""
    chain = dynamics.showcase(0.01, 10.0, 3)
    by_transfer = {way: dynamics.on_chain(chain, transfer=way) for way in ("instant", "integral")}
    rates = chain.rates_bps["5"]
    at_s, n_bytes = 1.0, 400_000
    sent_s = {way: field.links["5"].sent_s(at_s, n_bytes) for way, field in by_transfer.items()}
    assert sent_s["instant"] - at_s == pytest.approx(8 * n_bytes / rates[100])
    steps = np.diff([at_s, *np.arange(1.01, sent_s["integral"], 0.01), sent_s["integral"]])
    assert (steps * rates[100 : 100 + len(steps)]).sum() == pytest.approx(8 * n_bytes)
    assert sent_s["instant"] != pytest.approx(sent_s["integral"], rel=0.01)


def test_a_hop_of_an_update_has_a_time_of_its_own(context):
    net = generated("mmwave", "mid", 0.05, 12.0, 3)
    fields = [make_field(net, "resnet18-88", Unstated(control_hop_s=hop_s)) for hop_s in (0.001, 0.004)]
    route = net.route(0.0)
    (short, _), (long, _) = (field.update(route, 0.0, present(field), [0.0] * 7) for field in fields)
    sent_s = sum(8 * fields[0].sci_bytes / net.rate_bps(link, 0.0) for link in route.links)
    assert short[0] == pytest.approx(6 * 0.001 + sent_s, abs=2e-4)  # rates change once on the way
    assert long[0] == pytest.approx(6 * 0.004 + sent_s, abs=2e-4)
    one, other = (field.trace(route, [0.0] * 7, [0] * 6).latency_s for field in fields)
    assert one == other  # tasks have psi of their own


def test_a_foreseen_split_is_no_worse_than_one_by_rates_that_change(context):
    asked = [inference.LatencyParameters(**SMALL, kind="sub6", forecast=way) for way in ("present", "exact")]
    found = [list(inference.latency(parameters, context)) for parameters in asked]
    present_ms, exact_ms = (values(one, "latency_ms", strategy="hivemind")[0] for one in found)
    assert exact_ms <= present_ms


def test_more_weight_on_energy_takes_less_energy_and_more_time(context):
    asked = ObjectiveParameters(tasks=8, duration_s=60.0, energy_weight=2.0, weights=(0.01, 2.0, 1e6))
    found = list(objectives(asked, context))
    joules, millis = values(found, "linear_energy_j"), values(found, "linear_latency_ms")
    assert joules == sorted(joules, reverse=True)
    assert millis == sorted(millis)
    assert joules[1] == pytest.approx(values(found, "energy_j", objective="linear")[0])
    assert millis[0] == pytest.approx(values(found, "latency_ms", objective="latency")[0], rel=0.01)


def test_sharing_after_more_episodes_costs_a_round_its_part(context):
    found = [
        list(nonlinear.agents(nonlinear.AgentParameters(tasks=3, duration_s=60.0, episodes=episodes), context))
        for episodes in (1.0, 4.0, 1e9)
    ]
    gains = [values(one, "efficiency_over_standard")[0] for one in found]
    assert gains[0] > gains[1] > gains[2] == pytest.approx(1)


def test_a_pass_that_may_take_the_whole_limit_leaves_the_ue(context):
    asked = {
        limit: nonlinear.RecurrentParameters(tasks=2, duration_s=60.0, limit_of=limit)
        for limit in ("module", "sequence")
    }
    by_limit = {limit: list(nonlinear.recurrent(parameters, context)) for limit, parameters in asked.items()}
    joules = {limit: values(found, "energy_j", way="standard")[0] for limit, found in by_limit.items()}
    assert joules["module"] < joules["sequence"]
    assert 1.0 < values(by_limit["module"], "longest_pass_ms")[0] <= 120


def test_the_rule_predicts_nothing_below_the_coherence_time(context):
    parameters = dynamics.DynamicsParameters(tasks=50, duration_s=100.0, coherence_s=0.05)
    field = dynamics.field_of(parameters, context)
    standard, unruled, ruled = (
        dynamics.latencies_ms(dynamics.played(field, parameters, context, foresight))
        for foresight in (None, dynamics.Foresight(), dynamics.Foresight(coherence_s=10.0))
    )
    assert ruled == standard != unruled


def test_the_showcase_is_shared_evenly_and_always_the_same():
    one, other = (dynamics.showcase.__wrapped__(0.05, 10.0, 7) for _ in range(2))
    assert all((one.rates_bps[link] == other.rates_bps[link]).all() for link in one.rates_bps)
    assert all(
        rates.max() < capacity
        for rates, capacity in zip(one.rates_bps.values(), (4e9, 2e9, 8e8, 4e8, 1e8), strict=True)
    )


def test_break_even_lies_between_the_errors_around_it():
    assert dynamics.break_even([0.0, 0.1, 0.2], [8.0, 9.0, 11.0], 10.0) == pytest.approx(0.15)
    assert dynamics.break_even([0.0, 0.1], [8.0, 9.0], 10.0) == 0.1
    assert dynamics.break_even([0.0, 0.1], [10.0, 9.0], 10.0) == 0.0


def test_objectives_stand_as_they_must(context):
    found = list(objectives(ObjectiveParameters(tasks=8, duration_s=60.0, load="high"), context))
    exact, saving = values(found, "energy_j", objective="exact")[0], values(found, "energy_j", objective="energy")[0]
    assert saving <= exact
    assert values(found, "energy_over_exact", objective="accumulated")[0] >= 1 - 1e-9
    fast = values(found, "latency_ms", objective="latency")[0]
    assert all(fast <= one + 1e-6 for one in values(found, "latency_ms"))


def test_training_energy_of_the_ue_is_three_passes(context):
    found = list(energy(inference.InferenceParameters(**SMALL), context))
    assert values(found, "energy_j", strategy="ue") == [pytest.approx(1000 * 3 * 0.130 * 5.5, rel=0.005)]
    assert values(found, "batches_with_moves", strategy="cloud") == [0]


def brute(energy, latency, limit_ms: float) -> tuple[float, float]:
    """The least energy of all splits within the limit, else what the fastest takes."""
    layers, links = len(energy.layers[0]), len(energy.links)
    plans = [
        (path_cost(*energy, splits), path_cost(*latency, splits))
        for splits in combinations_with_replacement(range(layers + 1), links)
    ]
    within = [plan for plan in plans if plan[1] <= limit_ms]
    return min(within) if within else min(plans, key=lambda plan: plan[1])


@pytest.mark.parametrize("limit_ms", [1e-3, 40.0, 1e6])
@pytest.mark.parametrize("load", ["low", "high"])
def test_plans_of_recurrent_models_are_the_best_of_all(context, load, limit_ms):
    parameters = nonlinear.NonlinearParameters(tasks=3, duration_s=60.0, steps=2, load=load)
    net = parameters.make(context.seed)
    module = [nonlinear.gru(100, 300), nonlinear.linear(300, 10)]
    meter = nonlinear.meter_of(net, parameters, module * 2, [800, 1600, 1640, 1240, 0])
    for route, rates in nonlinear.moments(net, parameters, context):
        costs = nonlinear.costs(meter, route, rates)
        assert nonlinear.plan(*costs, limit_ms) == pytest.approx(brute(*costs, limit_ms))


class Steady:
    """The route of an mmWave network whose links never change."""

    coherence_s = 1.0

    def __init__(self, net, rate_bps: float) -> None:
        self.topology = net.topology
        self.rates_bps = {link: np.full(3, rate_bps) for link in net.rates_bps}
        self._route = net.route(0.0)

    def route(self, t: float):
        return self._route


@pytest.mark.parametrize("limit_ms", [1e-3, 1e6])
def test_sequences_played_over_links_that_stay_take_what_their_plan_says(context, limit_ms):
    """A first layer that only the UE does well, so that the model is split and states return."""
    parameters = nonlinear.NonlinearParameters(duration_s=60.0)
    net = Steady(parameters.make(context.seed), 2e7)
    module = [nonlinear.Layer(0, 0, 0), nonlinear.Layer(20_000_000_000, 0, 0)]
    meter = nonlinear.meter_of(net, parameters, module, [40_000_000, 1200, 0])
    rates = [2e7] * len(net.route(0.0).links)
    energy, latency = nonlinear.costs(meter, net.route(0.0), rates)
    splits = nonlinear.within(energy, latency, limit_ms)
    back_j = [meter.tasks * meter.link_j(net.route(0.0), link, 1200, rate) for link, rate in enumerate(rates)]
    back_ms = [1e3 * (8 * 1200 / rate + meter.field.delay_s) for rate in rates]
    for steps in (1, 3):
        returns = steps - 1, sum(split < len(module) for split in splits)  # links that a state comes back over
        expected = (
            steps * path_cost(*energy, splits) + returns[0] * sum(back_j[: returns[1]]),
            steps * path_cost(*latency, splits) + returns[0] * sum(back_ms[: returns[1]]),
        )
        assert nonlinear.sequence(meter, 0.5, limit_ms, steps, 1200) == pytest.approx(expected)
    assert splits[0] == 1


def test_each_link_is_charged_for_the_parameters_that_cross_it(context):
    parameters = nonlinear.AgentParameters(tasks=1, duration_s=60.0)
    net = parameters.make(context.seed)
    meter = nonlinear.meter_of(net, parameters, [nonlinear.linear(4, 4)] * 2, [16, 16, 0], training=True)
    ((route, rates),) = nonlinear.moments(net, parameters, context)
    energy, latency = nonlinear.costs(meter, route, rates)
    real, real_ms = nonlinear.with_parameters(meter, route, rates, [1000, 500], meter.field.delay_s, energy, latency)
    for split, size in ((0, 0), (1, 1000), (2, 1500)):
        for link, rate in enumerate(rates):
            there_ms = 1e3 * (8 * size / rate + meter.field.delay_s) if size else 0.0
            there_j = meter.tasks * meter.link_j(route, link, size, rate)
            assert real_ms.links[link][split] - latency.links[link][split] == pytest.approx(2 * there_ms)
            assert real.links[link][split] - energy.links[link][split] == pytest.approx(2 * there_j)
    joules, millis = nonlinear.shared(meter, route, rates, 1500, meter.field.delay_s)
    whole = [2] * len(rates)  # all by the UE: then Eq. 13 charges the same
    assert path_cost(*real_ms, whole) == pytest.approx(path_cost(*latency, whole) + millis[0])
    assert path_cost(*real, whole) == pytest.approx(path_cost(*energy, whole) + joules[0])


def test_work_of_recurrent_layers_by_hand():
    cell = nonlinear.gru(2, 3)
    weights = 3 * 3 * 2 + 3 * 3 * 3 + 6 * 3  # three gates: of the input, of the state, and two biases each
    assert cell == (2 * 3 * 3 * (2 + 3), 4 * (weights + 2 + 3 + 3), 4 * weights)
    assert nonlinear.linear(3, 2) == (12, 4 * (6 + 2 + 3 + 2), 4 * 8)
    assert nonlinear.several(nonlinear.linear(3, 2), 1, 5) == (60, 4 * (8 + 25), 32)
    assert nonlinear.several(cell, 5, 1) == (5 * cell.flops, 5 * cell.moved_bytes, 4 * weights)


def test_parameters_cross_every_link_to_the_cloud_and_back(context):
    parameters = nonlinear.AgentParameters(tasks=1, duration_s=60.0)
    net = parameters.make(context.seed)
    meter = nonlinear.meter_of(net, parameters, [nonlinear.linear(4, 4)], [16, 0], training=True)
    ((route, rates),) = nonlinear.moments(net, parameters, context)
    joules, millis = nonlinear.shared(meter, route, rates, 1000, meter.field.delay_s)
    assert (joules[-1], millis[-1]) == (0, 0)
    assert millis[0] == pytest.approx(sum(2e3 * (8000 / rate + meter.field.delay_s) for rate in rates))
    donor = route.nodes.index("iab6")
    assert joules[0] > joules[1] >= joules[donor] == 0  # behind it nothing counts


def test_a_spread_is_its_mean_its_extreme_and_its_quantiles():
    found = list(spread("t", [1.0, 2.0, 6.0], "ms", {"a": "b"}))
    assert [(one.metric, one.value) for one in found[:2]] == [("t", 3.0), ("t_max", 6.0)]
    assert [one.case["quantile"] for one in found if one.metric == "t_quantile"] == list(QUANTILES)
    assert values(found, "t_quantile", quantile=0.5) == [2.0]


def test_intervals_of_quantiles_hold_what_they_should_as_often_as_they_should():
    """Of values that stay together for ten tasks; intervals of single tasks would hold a third as often."""
    drawn = np.random.default_rng(3)
    held = {0.5: 0, 0.95: 0}
    for _ in range(100):
        values = np.repeat(drawn.exponential(size=60), 10)
        for quantile, (low, high) in zip(held, intervals(values.tolist(), list(held)), strict=True):
            held[quantile] += low <= -np.log(1 - quantile) <= high
    assert held[0.5] >= 85
    assert held[0.95] >= 75  # few stretches reach so far


@pytest.mark.parametrize("count", [1, 2, 19, 21, 40])
def test_an_interval_is_of_as_many_values_as_there_are(count):
    assert intervals([2.0] * count, [0.5]) == [(2.0, 2.0)]
    low, high = intervals([float(value) for value in range(count)], [0.5])[0]
    assert 0 <= low <= high <= count - 1


def test_the_same_seed_gives_the_same_numbers(context):
    runs = [list(inference.latency(inference.LatencyParameters(**SMALL), context)) for _ in range(2)]
    generated.cache_clear()
    runs.append(list(inference.latency(inference.LatencyParameters(**SMALL), context)))
    assert runs[0] == runs[1] == runs[2]


def test_the_suite_is_right_and_skips_nothing():
    (suite,) = load([str(packaged()["hivemind"])], checked=True)
    names = {experiment.spec.name for experiment in suite.experiments}
    assert {"inference", "handover", "prediction", "training", "objectives", "recurrent", "agents"} <= names
    for experiment in suite.experiments:
        assert experiment.skipped("laptop") is None
    field = make_field(generated("mmwave", "mid", 0.05, 12.0, 3), "resnet18-88", Unstated(input_bytes=150_528))
    assert field.frame_bytes[0] > 150_528


def test_a_profile_from_here_stands_beside_the_modelled_ones(context):
    found = list(measured(ProfileParameters(repeats=1), context))
    assert values(found, "layers") == [52] * 5
    assert values(found, "forward_s", machine="ue") == [pytest.approx(0.130, abs=0.0005)]
    assert all(value > 0 for value in values(found, "forward_energy_j"))
