"""The experiments on the live protocol: what they tell of small services, and what they refuse."""

import pytest
from measured import by_case
from msgspec.structs import replace

from bench.experiments.hivemind.live_protocol import (
    RateParameters,
    RouteParameters,
    UpdateParameters,
    changed,
    handover,
    rates,
    updates,
)
from bench.experiments.hivemind.live_route import LiveRouteParameters, RouteLink, held, steady
from bench.suite.experiment import Context
from bench.suite.parameter_types import ModelName
from netem.profiles import Duplex
from nodes.inference.frames import frames_of_model
from nodes.wire.codec import wire_size
from nodes.wire.messages import TaskReport
from nodes.wire.split_costs import sci

SMALL = ModelName("nodes.zoo.small_cnn:small_cnn")
ROAD = RouteLink(rate_bps=200e6, delay_s=0.0005)
TIMES = {"step": 0, "predicted_s": 1.0, "began_s": 0.0, "ended_s": 1.0, "returned_s": 1.0}


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, mode="live", shaping="emulated", dataset="none")


def route(**changes) -> RouteParameters:
    given = {
        "model_compute_s": {"ue": 0.2, "one": 0.06, "two": 0.05, "cloud": 0.03},
        "links": dict.fromkeys(("ue-one", "one-cloud", "ue-two", "two-one", "two-cloud"), ROAD),
        "before": ["ue", "one", "cloud"],
        "after": ["ue", "two", "one", "cloud"],
        "dies": "one",
        "model": SMALL,
        "tasks": 2,
        "calibration": 2,
    }
    return RouteParameters(**given | changes)


def test_a_handover_and_a_death_are_told_phase_by_phase(context):
    found = {(m.metric, *sorted(m.case.items())): m.value for m in handover(route(), context)}
    layers = len(frames_of_model(SMALL, 10, (3, 32, 32), "module")) - 1
    for phase, names in {"before": ["ue", "one"], "after": ["ue", "two", "one"], "left": ["ue", "two"]}.items():
        counts = [found["layers", ("node", name), ("phase", phase)] for name in [*names, "cloud"]]
        assert sum(counts) == layers
        assert found["median_latency_ms", ("phase", phase)] > 20
        assert found["prediction_error", ("phase", phase)] < 10
    assert found["parameter_messages",] == 0
    for source in ("measured", "predicted"):
        assert len([key for key in found if key[0] == "latency_ms" and ("source", source) in key]) == 6
    assert found["latency_increase_ms",] == pytest.approx(
        found["median_latency_ms", ("phase", "after")] - found["median_latency_ms", ("phase", "before")]
    )


@pytest.mark.parametrize(("computing", "holder"), [(["cloud"], "cloud"), (["ue"], "ue"), ([], "cloud")])
def test_only_who_may_computes(computing, holder, context):
    """Of all who may, the cloud is the best: it is fast, and the links to it take next to nothing."""
    links = dict.fromkeys(("ue-one", "one-cloud"), RouteLink(rate_bps=1e9, delay_s=0.0005))
    chain = LiveRouteParameters(
        model_compute_s={"ue": 0.2, "one": 0.1, "cloud": 0.03},
        links=links,
        before=["ue", "one", "cloud"],
        computing=computing,
        model=SMALL,
        tasks=2,
    )
    found = by_case(steady(chain, context))
    layers = len(frames_of_model(SMALL, 10, (3, 32, 32), "module")) - 1
    assert {name: found["layers", name] for name in chain.before} == dict.fromkeys(chain.before, 0) | {holder: layers}
    least_s = chain.model_compute_s[holder]
    assert found["latency_ms", "predicted"] == pytest.approx(1e3 * least_s, abs=10)
    assert found["latency_ms", "measured"] > 1e3 * least_s


def test_updates_tell_their_times_and_the_bytes_of_whole_frames(context):
    parameters = UpdateParameters(model=SMALL, links=(Duplex(), Duplex()), updates=3, discarded=1)
    found = by_case(updates(parameters, context))
    layers = int(found["layers",])
    numbered = sum(wire_size(sci(1 << 20, "mec1", [0.0] * (layers + 1))))
    first = sum(wire_size(sci(1, "mec1", [0.0] * (layers + 1))))
    assert found["sci_bytes", "mec1"] == pytest.approx((4 * numbered + first) / 5)
    assert found["split_update_ms", "median"] > 0
    assert {key[1:] for key in found if key[0] == "sci_bytes"} == {("mec1",), ("cloud",)}


def test_layers_held_are_those_between_a_nodes_stop_and_the_one_before():
    task = TaskReport(**TIMES, splits={"ue": 2, "two": 2, "one": 5})
    assert [held(task, name) for name in ("ue", "two", "one", "cloud")] == [2, 0, 3, 0]


def test_only_nodes_with_the_same_neighbour_upstream_are_the_unchanged_part():
    def task(**splits: int) -> list[TaskReport]:
        return [TaskReport(**TIMES, splits=splits)]

    before = task(ue=0, one=4, cloud=9)
    assert changed({"before": before, "after": task(ue=0, two=4, one=4, cloud=9)}, route()) == 0
    assert changed({"before": before, "after": task(ue=0, two=4, one=5, cloud=9)}, route()) == 1


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"links": {"ue-one": ROAD}}, "no link one-cloud"),
        ({"model_compute_s": {"ue": 1.0, "one": 1.0, "two": 1.0}}, "no compute time for node cloud"),
        ({"after": ["two", "one", "cloud"]}, "begin at the UE"),
    ],
)
def test_routes_that_cannot_be_taken_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        route(**changes)


@pytest.mark.parametrize("told", ["known", "measured"])
def test_a_link_that_becomes_slow_is_told_of_or_measured_and_the_ue_computes_itself(told, context):
    """The picture takes 12 ms as long as the link is fast, and ten times the UE's 50 ms once it is slow."""
    parameters = RateParameters(
        model_compute_s={"ue": 0.05, "mec": 0.005},
        links={"ue-mec": RouteLink(rate_bps=8e6, delay_s=0.0005)},
        before=["ue", "mec"],
        model=SMALL,
        rates=told,
        slowdown=40,
        tasks=1,
    )
    found = {(m.metric, *sorted(m.case.items())): m.value for m in rates(parameters, context)}
    layers = len(frames_of_model(SMALL, 10, (3, 32, 32), "module")) - 1
    assert found["layers", ("node", "mec"), ("phase", "before")] == layers
    assert found["layers", ("node", "ue"), ("phase", "slow")] == layers
    assert found["latency_ms", ("phase", "slow")] > 50
