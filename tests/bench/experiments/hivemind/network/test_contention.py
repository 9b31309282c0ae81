"""Several UEs on HiveMind's network: against the closed form of one task, and a server that all of them share."""

from itertools import pairwise
from statistics import fmean
from types import SimpleNamespace

import pytest

from bench.experiments.hivemind.network.contention import (
    ContentionParameters,
    Sharer,
    contention,
    serve,
    sharers_of,
)
from bench.experiments.hivemind.network.inference import field_of
from bench.experiments.hivemind.network.scenario import fastest
from bench.experiments.hivemind.network.tasks import Field, present, tasks
from netem.cellular.network import Network

SEED = SimpleNamespace(seed=3)


def made(**changes) -> tuple[ContentionParameters, Network, Field, list[Sharer]]:
    parameters = ContentionParameters(**{"load": "mid", "duration_s": 12.0, "tasks": 4} | changes)
    net = parameters.make(SEED.seed)
    return parameters, net, field_of(parameters, SEED), sharers_of(parameters, net, SEED.seed)


@pytest.mark.parametrize("load", ["low", "mid", "high"])
@pytest.mark.parametrize("tell_queues", [False, True])
def test_one_ue_alone_does_what_the_closed_form_of_a_task_says(load: str, tell_queues: bool) -> None:
    parameters, net, field, _ = made(load=load, ues=1, period_s=0.75)
    here = Sharer("ue0", net.route(0.0), 0.0, 0.0)
    (served,) = serve(parameters, net, field, [here], tell_queues)
    traces = tasks(field, fastest(field, "hivemind"), present(field), [0.75 * index for index in range(4)])
    assert [task.began_s for task in served.tasks] == pytest.approx([one.began_s for one in traces], abs=2e-6)
    assert [task.latency_s for task in served.tasks] == pytest.approx([one.latency_s for one in traces], abs=5e-6)


def test_ues_at_one_place_wait_and_those_told_of_it_wait_less() -> None:
    """A server that takes about 50 ms a task does at most 20 a second, and six UEs ask for more."""
    parameters, net, field, sharers = made(load="high", ues=6, duration_s=200.0)
    assert len({sharer.route for sharer in sharers}) == 1
    means = {}
    for told in (False, True):
        served = serve(parameters, net, field, sharers, told)
        assert [len(one.tasks) for one in served] == [4] * 6
        means[told] = fmean(task.latency_s for one in served for task in one.tasks)
    (alone,) = serve(parameters, net, field, sharers[:1], tell_queues=False)
    assert fmean(task.latency_s for task in alone.tasks) < means[True] < means[False]


def test_ues_apart_are_at_equal_distances_of_a_lap() -> None:
    *_, net, _, sharers = made(ues=4, place="apart", duration_s=200.0)
    lap_s = net.topology.trajectory.length_m / net.topology.trajectory.speed_m_per_s
    gaps = [after.ahead_s - before.ahead_s for before, after in pairwise(sharers)]
    assert gaps == pytest.approx([lap_s / 4] * 3)
    assert len({sharer.route for sharer in sharers}) > 1


def test_what_is_measured_is_of_the_tasks_served() -> None:
    parameters, _, field, _ = made(ues=3)
    found = {(one.metric, *one.case.values()): one.value for one in contention(parameters, SEED)}
    for queues in ("ignored", "told"):
        shares = [value for key, value in found.items() if key[:2] == ("layers_share", queues)]
        assert sum(shares) == pytest.approx(1)
        alone_ms = 1e3 * sum(field.layer_s["ue"])
        assert found["latency_over_ue", queues] * alone_ms == pytest.approx(found["latency_ms", queues], rel=0.2)
    assert found["saving_share",] == pytest.approx(
        1 - found["latency_over_ue", "told"] / found["latency_over_ue", "ignored"]
    )
