"""The closed form of a task's way is what the nodes of a service do in virtual time, message by message."""

import random
from itertools import pairwise

import numpy as np
import pytest

from bench.experiments.general.cellular import generated
from bench.experiments.hivemind.network.dynamics import on_chain, showcase
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, fastest, make_field
from bench.experiments.hivemind.network.tasks import Capacity, Field, present, tasks
from netem.link import Link, LinkProfile
from nodes.costs.workload import load_workload
from nodes.inference.frames import frames_of_bytes
from nodes.inference.in_process import Scene, Served, serve_in_virtual_time
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.forecast import forecast_bps
from nodes.splitting.search import transfer_s

PERIOD_S = 0.75
COUNT = 15


def test_a_capacity_is_a_links_closed_form():
    rates = np.array([8e3, 16e3, 0.0, 4e3])
    capacity = Capacity(rates, 0.5)
    assert capacity.sent_s(0.25, 250) == pytest.approx(0.5)
    assert capacity.sent_s(0.25, 1250) == pytest.approx(1.0)
    assert capacity.sent_s(0.75, 750) == pytest.approx(1.5 + 2000 / 4e3, rel=1e-3)  # nothing for half a second
    link = Link(LinkProfile(rate_bps=8e3), random.Random(0))
    for step, rate in enumerate(rates):
        link.change(step * 0.5, LinkProfile(rate_bps=max(rate, 1.0)))
    for at_s, n_bytes in ((0.1, 10), (0.3, 700), (1.1, 3), (1.6, 40)):
        assert capacity.sent_s(max(at_s, link.free_at), n_bytes) == pytest.approx(link.send(at_s, n_bytes))


def field_in(network: str) -> Field:
    """ResNet-18 under a load of the mmWave network, or on figure 6's chain, whose links change more."""
    if network == "chain":
        return on_chain(showcase(0.05, 12.0, 3))
    net = generated("mmwave", network, 0.05, 12.0, 3)
    assert len(net.routes()) == 1
    return make_field(net, "resnet18-88")


def played(field, strategy: str, predicting: bool) -> Served:
    """The same tasks, by the service's own nodes on a virtual clock."""
    route = field.network.route(0.0)
    link_of = dict(zip(pairwise(route.nodes), route.links, strict=True))
    layers = len(field.frame_bytes) - 1

    def link(name: str) -> Link:
        capacity, made = field.links[name], Link(LinkProfile(delay_s=field.delay_s), random.Random(0))
        for step in range(len(field.network.rates_bps[name])):
            rate_bps = capacity.rate_bps(step * capacity.step_s)
            made.change(step * capacity.step_s, LinkProfile(rate_bps=rate_bps, delay_s=field.delay_s))
        return made

    def estimate(upper: str, lower: str):
        rate = field.links[link_of[upper, lower]].rate_bps
        ahead = 1.0 if predicting else 0.0
        return lambda now, gap_s: transfer_s(field.frame_bytes, rate(now + ahead * gap_s), field.delay_s)

    scene = Scene(
        pace=Pace(tasks=COUNT, after_update=True),
        layer_s=dict(zip(route.nodes, field.node_s(route, MAY_COMPUTE[strategy]), strict=True)),
        estimates=estimate,
        routes=[(0.0, route.nodes)],
        policy=Policy(period_s=PERIOD_S),
    )
    assert layers == len(scene.layer_s["ue"])
    frames = frames_of_bytes(load_workload("resnet18-88").boundary_bytes)
    return serve_in_virtual_time(scene, frames, {pair: (link(name), link(name)) for pair, name in link_of.items()})


@pytest.mark.parametrize("predicting", [False, True])
@pytest.mark.parametrize("strategy", ["ue", "cloud", "single-split", "hivemind"])
@pytest.mark.parametrize("network", ["mid", "high", "chain"])
def test_the_closed_form_is_what_the_nodes_do(network, strategy, predicting):
    field = field_in(network)
    capacities = field.links

    def forecast(link: str, now_s: float, ahead_s: float) -> float:
        return forecast_bps(capacities[link].rate_bps, now_s, ahead_s)

    times_s = [PERIOD_S * index for index in range(COUNT)]
    expected = forecast if predicting else present(field)
    traces = tasks(field, fastest(field, strategy), expected, times_s, gap_to="arrival")
    served = played(field, strategy, predicting)
    assert [task.began_s for task in served.tasks] == pytest.approx([one.began_s for one in traces], abs=2e-6)
    for task, trace in zip(served.tasks, traces, strict=True):
        assert task.latency_s == pytest.approx(trace.latency_s, abs=5e-6)  # numbers in a frame take 1 to 3 bytes
        assert list(task.splits.values()) == [*trace.splits, 52][: len(task.splits)]
