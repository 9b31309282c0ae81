"""Whole inference services: in virtual time against the closed form of a task's cost, in process against the model."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from netem.link import Link, LinkProfile
from nodes.errors import ProtocolError
from nodes.inference.frames import Frames, frames_of_bytes, frames_of_model, wire_bytes
from nodes.inference.in_process import Scene, Served, serve_in_process, serve_in_virtual_time
from nodes.inference.whole_model import WholeModel
from nodes.model.factory import build_model
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.splitting.search import path_cost, search, transfer_s
from nodes.wire.codec import wire_size
from nodes.wire.messages import TaskReport

CHAIN = ("ue", "gnb", "mec", "core", "cloud")
SPEED = {"ue": 1.0, "gnb": 4.0, "gnb2": 4.0, "mec": 6.0, "core": 20.0, "cloud": 40.0}
RATE_BPS = {"ue": 60e6, "gnb": 100e6, "gnb2": 90e6, "mec": 200e6, "core": 50e6}  # of the link behind each
DELAY_S = 0.001
LAYER_S = {name: [0.004 / speed] * 12 for name, speed in SPEED.items()}
FRAMES = frames_of_bytes(
    [85_000, 160_000, 120_000, 90_000, 60_000, 60_000, 30_000, 20_000, 9_000, 9_000, 5_000, 700, 40]
)


def links(upper: str, lower: str, rate_bps: float | None = None) -> dict[tuple[str, str], tuple[Link, Link]]:
    profile = LinkProfile(rate_bps=rate_bps or RATE_BPS[upper], delay_s=DELAY_S)
    return {(upper, lower): (Link(profile, random.Random(0)), Link(profile, random.Random(0)))}


def constant_estimate(sizes, rate_bps, delay_s):
    return lambda now, ahead_s: transfer_s(sizes, rate_bps, delay_s)


def joined(*routes: tuple[str, ...]) -> dict[tuple[str, str], tuple[Link, Link]]:
    """Links between all neighbours on ``routes``."""
    pairs = {pair for route in routes for pair in itertools.pairwise(route)}
    return {key: link for pair in pairs for key, link in links(*pair).items()}


def scene(*routes: tuple[float, tuple[str, ...]], **changes) -> Scene:
    routes = routes or ((0.0, CHAIN),)
    deliver = changes.get("deliver", False)
    sizes = wire_bytes(FRAMES, deliver)
    names = dict.fromkeys(name for _, route in routes for name in route)
    given = {
        "pace": Pace(tasks=8),
        "layer_s": {name: LAYER_S[name] for name in names},
        "estimates": lambda upper, lower: constant_estimate(sizes, RATE_BPS[upper], DELAY_S),
        "routes": routes,
        "policy": Policy(period_s=0.05),
    }
    return Scene(**given | changes)


def splits_on(route: tuple[str, ...], task: TaskReport) -> list[int]:
    """Layers done when ``task`` left each node but the last; the model may end before."""
    known = [task.splits.get(name, len(FRAMES) - 1) for name in route[:-1]]
    assert list(task.splits) == list(route[: len(task.splits)])
    return known


def costs(route: tuple[str, ...], step: int, deliver: bool = False) -> tuple[list[list[float]], list[list[float]]]:
    """Costs of the layers and of the links for task ``step``, whose number is part of its frames."""
    sizes = [sum(wire_size(replace(frame, step=step))) for frame in FRAMES]
    sizes[-1] = sizes[-1] if deliver else 0
    crossing = [[8 * size / RATE_BPS[upper] + DELAY_S if size else 0.0 for size in sizes] for upper in route[:-1]]
    return [LAYER_S[name] for name in route], crossing


def assert_all_are_best(route: tuple[str, ...], tasks: list[TaskReport], deliver: bool = False) -> None:
    for task in tasks:
        layers, crossing = costs(route, task.step, deliver)
        splits = splits_on(route, task)
        assert splits == search(layers, crossing).splits
        assert task.latency_s == pytest.approx(path_cost(layers, crossing, splits), rel=1e-9)
        assert task.predicted_s == pytest.approx(task.latency_s, rel=1e-5)  # the SCI is float32


@pytest.mark.parametrize("deliver", [False, True])
@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_on_steady_links_every_task_costs_what_the_formula_says_and_is_split_best(nodes, deliver):
    route = CHAIN[:nodes]
    served = serve_in_virtual_time(scene((0.0, route), deliver=deliver), FRAMES, joined(route))
    assert len(served.tasks) == 8
    assert_all_are_best(route, served.tasks, deliver)
    assert [task.restarts for task in served.tasks] == [0] * 8


@settings(max_examples=25)
@given(st.data())
def test_whatever_the_chain_is_the_tasks_are_split_best(data):
    count = data.draw(st.integers(2, 5))
    route = tuple(f"node{p}" for p in range(count))
    layers = data.draw(st.integers(1, 6))
    cost = st.floats(1e-4, 1e-1)
    layer_s = {name: data.draw(st.lists(cost, min_size=layers, max_size=layers)) for name in route}
    frames = frames_of_bytes(data.draw(st.lists(st.integers(1, 10**6), min_size=layers + 1, max_size=layers + 1)))
    rates = {upper: data.draw(st.floats(1e6, 1e9)) for upper in route[:-1]}
    sizes = wire_bytes(frames)
    served = serve_in_virtual_time(
        Scene(
            pace=Pace(tasks=2),
            layer_s=layer_s,
            estimates=lambda upper, lower: constant_estimate(sizes, rates[upper], 0.01),
            routes=[(0.0, route)],
        ),
        frames,
        {
            (a, b): tuple(Link(LinkProfile(rate_bps=rates[a], delay_s=0.01), random.Random(0)) for _ in "ab")
            for a, b in itertools.pairwise(route)
        },
    )
    best = search(list(layer_s.values()), [constant_estimate(sizes, rates[upper], 0.01)(0, 0) for upper in route[:-1]])
    for task in served.tasks:
        assert task.latency_s == pytest.approx(best.cost, rel=1e-5)


def test_an_update_takes_the_time_and_the_bytes_of_its_messages():
    route = CHAIN[:3]
    served = serve_in_virtual_time(scene((0.0, route), policy=Policy(period_s=10.0)), FRAMES, joined(route))
    sent = [node.sent_downlink["sci"] for node in served.nodes[1:]]
    assert [traffic.messages for traffic in sent] == [1, 1]
    assert [traffic.payload_bytes for traffic in sent] == [4 * len(FRAMES)] * 2
    crossing = [
        8 * (traffic.header_bytes + traffic.payload_bytes) / RATE_BPS[upper] + DELAY_S
        for traffic, upper in zip(sent, route, strict=False)
    ]
    assert served.split_points == [(pytest.approx(sum(crossing), rel=1e-9), served.tasks[0].splits["ue"])]
    assert served.tasks[0].began_s == served.split_points[0][0]


def test_a_node_whose_costs_change_little_sends_few_messages():
    def wobbling(upper, lower):
        base = constant_estimate(wire_bytes(FRAMES), RATE_BPS[upper], DELAY_S)(0, 0)
        return lambda now, ahead_s: [cost * (1 + 0.01 * (int(now * 1000) % 7)) for cost in base]

    counts = []
    for change in (None, 0.1):
        policy = Policy(period_s=0.01, min_change=change)
        served = serve_in_virtual_time(scene(estimates=wobbling, policy=policy), FRAMES, joined(CHAIN))
        counts.append([node.sent_downlink["sci"].messages for node in served.nodes[1:]])
    assert counts[1][-1] > 10
    assert min(counts[0]) >= counts[1][-1] - 1
    assert counts[1][:-1] == [1, 1, 1]


def test_a_change_of_the_links_changes_the_split_and_back():
    times, slow = (0.3, 0.6), 0.02

    def rate_at(now: float, upper: str) -> float:
        return RATE_BPS[upper] * (slow if times[0] <= now < times[1] else 1.0)

    def oracle(upper, lower):
        sizes = wire_bytes(FRAMES)
        return lambda now, ahead_s: constant_estimate(sizes, rate_at(now, upper), DELAY_S)(now, ahead_s)

    roads = joined(CHAIN)
    for (upper, _), (away, _) in roads.items():
        for at in times:
            away.change(at, LinkProfile(rate_bps=rate_at(at, upper), delay_s=DELAY_S))
    policy = Policy(period_s=0.02)
    served = serve_in_virtual_time(scene(estimates=oracle, policy=policy, pace=Pace(tasks=40)), FRAMES, roads)
    alone = [task for task in served.tasks if list(task.splits) == ["ue"]]
    assert alone
    assert all(times[0] - 0.05 < task.began_s < times[1] + 0.05 for task in alone)
    assert served.tasks[0].splits == served.tasks[-1].splits != alone[0].splits
    assert max(served.tasks, key=lambda task: task.returned_s).began_s > times[1]


def test_tasks_start_by_the_clock():
    served = serve_in_virtual_time(scene(pace=Pace(tasks=5, period_s=0.25)), FRAMES, joined(CHAIN))
    began = [task.began_s for task in served.tasks]
    assert [later - began[1] for later in began[1:]] == pytest.approx([0.0, 0.25, 0.5, 0.75])
    assert_all_are_best(CHAIN, served.tasks)


def test_each_task_has_an_update_of_its_own():
    policy = Policy(period_s=0.2)
    served = serve_in_virtual_time(scene(pace=Pace(tasks=5, after_update=True), policy=policy), FRAMES, joined(CHAIN))
    assert [task.began_s for task in served.tasks] == [when for when, _ in served.split_points]


NEW = ("ue", "gnb2", "gnb", "mec", "core", "cloud")  # one hop more, and another access


def test_a_handover_leaves_the_rest_of_the_route_as_it_is():
    served = serve_in_virtual_time(scene((0.0, CHAIN), (0.2, NEW), pace=Pace(tasks=16)), FRAMES, joined(CHAIN, NEW))
    before = [task for task in served.tasks if "gnb2" not in task.splits]
    after = [task for task in served.tasks if "gnb2" in task.splits]
    assert len(before) > 2
    assert len(after) > 2
    assert max(task.returned_s for task in before) <= min(task.began_s for task in after)
    assert_all_are_best(CHAIN, before)
    assert_all_are_best(NEW, after)
    kept = [report for report in served.nodes if report.name in ("mec", "core", "cloud")]
    assert [report.switches for report in kept] == [0, 0, 0]
    assert sum(report.sent_uplink.get("parameters") is not None for report in served.nodes) == 0


def test_a_handover_back_and_forth_and_a_node_that_leaves():
    routes = [
        (0.0, CHAIN),
        (0.1, NEW),
        (0.2, CHAIN),
        (0.3, ("ue", "gnb2", "gnb", "core", "cloud")),
        (0.4, ("ue",)),
        (0.6, NEW),
    ]
    served = serve_in_virtual_time(scene(*routes, pace=Pace(tasks=60)), FRAMES, joined(*(route for _, route in routes)))
    assert sorted(task.step for task in served.tasks) == list(range(60))
    for start, route in routes:
        end = min((at for at, _ in routes if at > start), default=float("inf"))
        mine = [task for task in served.tasks if start + 0.02 < task.began_s and task.returned_s < end]
        assert mine
        assert_all_are_best(route, mine)


@pytest.mark.parametrize("dead", CHAIN[1:])
@pytest.mark.parametrize("at", [0.2, 0.2071, 0.213, 0.2177, 0.225])
def test_a_node_that_dies_is_routed_around_whatever_it_was_doing(dead, at):
    around = tuple(name for name in CHAIN if name != dead)
    served = serve_in_virtual_time(
        scene(pace=Pace(tasks=16), deaths=[(at, dead)], policy=Policy(period_s=0.05)), FRAMES, joined(CHAIN, around)
    )
    assert sorted(task.step for task in served.tasks) == list(range(16))
    assert sum(task.restarts for task in served.tasks) <= 1
    assert_all_are_best(CHAIN, [task for task in served.tasks if task.returned_s < at])
    after = [task for task in served.tasks if task.began_s > at + 0.03]
    assert after
    assert_all_are_best(around, after)


def test_a_death_in_the_midst_of_a_task_is_survived_by_the_task():
    restarts = 0
    for step in range(20):
        served = serve_in_virtual_time(
            scene(pace=Pace(tasks=6), deaths=[(0.1 + step * 0.002, "gnb")]),
            FRAMES,
            joined(CHAIN, ("ue", "mec", "core", "cloud")),
        )
        restarts += sum(task.restarts for task in served.tasks)
        assert sorted(task.step for task in served.tasks) == list(range(6))
    assert restarts > 3


def test_all_but_the_ue_may_die():
    deaths = [(0.1, "mec"), (0.15, "cloud"), (0.2, "gnb"), (0.25, "core")]
    served = serve_in_virtual_time(
        scene(pace=Pace(tasks=16), deaths=deaths),
        FRAMES,
        joined(CHAIN, *(itertools.combinations(CHAIN, 2))),
    )
    assert sorted(task.step for task in served.tasks) == list(range(16))
    assert_all_are_best(("ue",), [task for task in served.tasks if task.began_s > 0.3])


def test_a_seed_repeats_a_service_over_links_that_vary():
    def run(seed: int) -> Served:
        rough = LinkProfile(rate_bps=80e6, delay_s=0.002, jitter_s=0.001, loss=0.01)
        roads = {pair: tuple(Link(rough, random.Random(seed)) for _ in "ab") for pair in itertools.pairwise(CHAIN)}
        return serve_in_virtual_time(scene(), FRAMES, roads)

    one, two, three = ([task.latency_s for task in run(seed).tasks] for seed in (1, 1, 2))
    assert one == two != three


PICTURES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def workers(model: str, names: tuple[str, ...]) -> dict[str, WholeModel]:
    return {name: WholeModel(model, 10, (3, 16, 16), pictures=PICTURES if name == names[0] else None) for name in names}


@pytest.mark.parametrize("model", ["user_models:Everything", "user_models:Plain", "nodes.zoo.small_cnn:small_cnn"])
def test_a_split_model_gives_what_the_whole_one_does_wherever_it_is_cut(model):
    names = ("ue", "mec", "cloud")
    nodes = workers(model, names)
    layers = len(nodes["ue"].frames) - 1
    whole = build_model(model, 10, (3, 16, 16)).eval()
    with torch.no_grad():
        expected = [whole(picture[None]) for picture in PICTURES]
    for one in range(0, layers + 1, 2):
        two = (one + layers + 1) // 2

        def cut_at(upper, lower, cut={"ue": one, "mec": two}):  # noqa: B006 (bound here)
            return lambda now, ahead_s: [0.0 if i in (cut[upper], layers) else 1e6 for i in range(layers + 1)]

        served = serve_in_process(
            Scene(
                pace=Pace(tasks=3),
                layer_s={name: [1.0 / (p + 1)] * layers for p, name in enumerate(names)},
                estimates=cut_at,
                routes=[(0.0, names)],
            ),
            nodes,
        )
        assert served.tasks[0].splits["ue"] == one
        assert served.tasks[0].splits.get("mec", layers) == two
        for task, answer in zip(served.tasks, expected, strict=True):
            (logits,) = task.tensors.values()
            assert torch.equal(logits, answer)


@pytest.mark.parametrize("model", ["resnet18", "user_models:Everything", "nodes.zoo.small_cnn:small_cnn"])
def test_frames_without_data_are_those_of_the_real_tasks(model):
    shape = (3, 32, 32)
    frames: Frames = frames_of_model(model, 10, shape, "module")
    real = WholeModel(model, 10, shape, granularity="module", pictures=torch.zeros(1, *shape))
    message = real.start(5, 0)
    for done in range(len(frames)):
        message = real.forward(message, done)
        assert message.done == done
        assert wire_size(message) == wire_size(replace(frames[done], step=5))
    assert real.seconds == 0.0


def test_a_task_with_other_tensors_than_cross_there_is_refused():
    node = workers("user_models:Plain", ("ue",))["ue"]
    message = node.start(0, 2)
    (name,) = message.tensors
    for tensors in (
        {},
        {"other": message.tensors[name]},
        {name: message.tensors[name].double()},
        {name: torch.zeros(1)},
    ):
        wrong = type(message)(assignment=0, step=0, train=False, tensors=tensors, done=2)
        with pytest.raises(ProtocolError, match="came to boundary 2"):
            node.forward(wrong, 3)


def test_a_worker_tells_how_long_its_layers_take_on_the_device_it_plays():
    node = WholeModel("user_models:Plain", 10, (3, 16, 16), layer_s=[0.5, 0.25, 0.125, 1, 1, 1, 1], pictures=PICTURES)
    node.start(0, 2)
    assert node.seconds == 0.75
    node.forward(node.start(0, 2), 4)
    assert node.seconds == 1.125


def test_only_the_ue_has_pictures():
    with pytest.raises(ProtocolError, match="where the pictures are"):
        WholeModel("user_models:Plain", 10, (3, 16, 16)).start(0, 1)


def test_controls_count_their_updates():
    control = SplitControl([1.0], Policy())
    control.update([0.0, 0.0])
    assert control.updates == 1
