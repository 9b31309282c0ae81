"""Inference services on real processes: each node its own cut; nodes that join, and nodes that are really killed."""

import itertools
from collections.abc import Awaitable, Callable

import msgspec
import psutil
import pytest
import torch

from bench.live import inference as live_service
from bench.live import run
from bench.live.inference import LiveService, ServiceSetup
from bench.live.processes import RunError
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.data.loading import load_data
from nodes.inference.frames import frames_of_model
from nodes.inference.process import pictures_of
from nodes.model.factory import build_model
from nodes.spec.job import DataSpec, ModelSpec
from nodes.spec.policy import LinkSpec, Policy
from nodes.spec.service import Pace, Service
from nodes.wire.codec import wire_size
from nodes.wire.messages import TaskReport
from nodes.wire.split_costs import sci

NAMES = ("ue", "gnb", "mec", "cloud", "gnb2")
CHAIN = NAMES[:4]
Script = Callable[[LiveService], Awaitable[None]]
MODEL, SHAPE = "nodes.zoo.small_cnn:small_cnn", (3, 32, 32)
LAYERS = len(frames_of_model(MODEL, 10, SHAPE)) - 1
ENDLESS = 1_000_000
LINK = LinkProfile(rate_bps=500e6, delay_s=0.0002)
SPEED = {"ue": 1, "gnb": 2, "gnb2": 2, "mec": 3, "cloud": 4}


def stage(*emulated: tuple[str, str], **changes) -> ServiceSetup:
    service = {
        "model": MODEL,
        "input_shape": SHAPE,
        "classes": 10,
        "pace": Pace(tasks=100, after_update=True),
        "paced": False,
        "data": DataSpec(test_samples=8),
        "threads": 1,
    }
    pairs = list(itertools.combinations(("ue", "gnb2", "gnb", "mec", "cloud"), 2))
    return ServiceSetup(
        service=Service(**service | changes),
        layer_s={name: [0.01 / SPEED[name]] * LAYERS for name in NAMES},
        links={pair: Duplex(up=LINK, down=LINK) if pair in emulated else Duplex() for pair in pairs},
        # As if a little data were as dear as a layer: so the first two nodes take a part, and the last the rest.
        known={pair: LinkSpec(rate_bps=8e6, delay_s=0.001) for pair in pairs},
    )


def answers(service: Service) -> list[torch.Tensor]:
    whole = build_model(service.model, service.classes, service.input_shape, service.seed).eval()
    with torch.no_grad():
        return [whole(picture[None]) for picture in pictures_of(service)]


def assert_answered(service: Service, tasks: list[TaskReport]) -> None:
    expected = answers(service)
    for task in tasks:
        (logits,) = task.tensors.values()
        torch.testing.assert_close(logits, expected[task.step % len(expected)])


def run_service(setup: ServiceSetup, script: Script, **how: object) -> None:
    """Play ``script``, after which no node is left; a busy machine is no fault here."""
    try:
        live_service.run_service(setup, script, self_test="skip", **how)
    finally:
        assert not [p for p in psutil.Process().children(recursive=True) if p.name() in NAMES]


async def begin(live: LiveService, *route: str) -> None:
    await live.join(*route)
    await live.set_route(*route)
    await live.begin()


def seen(live: LiveService) -> tuple[int, int]:
    return len(live.split_points), len(live.tasks)


async def first_after(live: LiveService, before: tuple[int, int]) -> None:
    """Return when the task is done that the next update lets start; ``before`` that so much was seen."""
    cuts, tasks = before
    await live.until_updates(cuts + 1)
    await live.until_tasks(tasks + 1)


async def passed_by(live: LiveService, gone: str) -> list[TaskReport]:
    """All tasks up to the twentieth that did without ``gone``; the UE may have been far ahead of what is seen."""
    while gone in live.tasks[-1].splits:
        await live.until_tasks(len(live.tasks) + 1)
    await live.until_tasks(len(live.tasks) + 20)
    return live.tasks[:]


async def do_tasks(live: LiveService, count: int) -> list[TaskReport]:
    """Tasks one by one, each after an update that the cloud was asked for."""
    before = len(live.tasks)
    for number in range(count):
        await live.update("cloud")
        await live.until_tasks(before + number + 1)
    return live.tasks[before:]


def test_a_model_with_options_answers_sequences_of_tokens_on_three_nodes():
    model = ModelSpec(name="user_models:encoder", options={"width": 8})
    data = DataSpec(name="tokens", test_samples=8)
    here = stage(model=model, input_shape=(12,), input_type="int64", data=data)
    layers = len(frames_of_model(model, 10, (12,), "op", "int64")) - 1
    here = msgspec.structs.replace(here, layer_s={name: [0.01 / SPEED[name]] * layers for name in NAMES})

    async def script(live: LiveService) -> None:
        await begin(live, "ue", "mec", "cloud")
        tasks = await do_tasks(live, 4)
        assert_answered(here.service, tasks)
        assert len(tasks[-1].splits) > 1  # some layers ran elsewhere
        await live.end()

    run_service(here, script, shaping="none")


def test_a_node_killed_between_tasks_is_routed_around_and_one_that_joins_takes_part():
    here = stage(("ue", "gnb"), ("gnb", "mec"))

    async def script(live: LiveService) -> None:
        await begin(live, *CHAIN)
        await first_after(live, (0, 0))
        first = await do_tasks(live, 3)
        assert all(list(task.splits)[:2] == ["ue", "gnb"] for task in first)
        before = seen(live)
        live.kill("gnb")
        await first_after(live, before)  # the UE has found the next, and heard of it
        second = await do_tasks(live, 3)
        assert all("gnb" not in task.splits for task in second)
        assert any("mec" in task.splits for task in second)
        before = seen(live)
        await live.join("gnb2")
        await live.set_route("ue", "gnb2", "mec", "cloud")
        await first_after(live, before)
        third = await do_tasks(live, 3)
        assert all("gnb2" in task.splits for task in third)
        await live.end()
        assert sum(task.restarts for task in live.tasks) == 0
        assert live.reports.keys() == {"ue", "mec", "cloud", "gnb2"}
        assert [task.step for task in live.tasks] == list(range(len(live.tasks)))
        assert_answered(here.service, live.tasks)

    run_service(here, script)


@pytest.mark.parametrize("dead", ["gnb", "mec", "cloud"])
@pytest.mark.promise(
    "Nodes", "a node of an inference service is killed in a task", "the task is computed on another route"
)
def test_a_node_killed_at_any_moment_costs_no_task(dead):
    here = stage(pace=Pace(tasks=ENDLESS))

    async def script(live: LiveService) -> None:
        await begin(live, *CHAIN)
        await live.until_tasks(20)
        live.kill(dead)
        tasks = await passed_by(live, dead)
        assert [task.step for task in tasks] == list(range(len(tasks)))
        assert sum(task.restarts for task in tasks) <= 2
        assert dead not in tasks[-1].splits
        assert_answered(here.service, tasks)

    run_service(here, script)


@pytest.mark.parametrize("hung", ["gnb", "cloud"])
@pytest.mark.promise("Nodes", "a node of an inference service is stopped", "the task is computed on another route")
def test_a_node_that_hangs_is_passed_by_and_costs_no_task(hung):
    here = stage(pace=Pace(tasks=ENDLESS), policy=Policy(patience_s=1.0))

    async def script(live: LiveService) -> None:
        await begin(live, *CHAIN)
        await live.until_tasks(20)
        live.hang(hung)
        tasks = await passed_by(live, hung)
        live.wake(hung)
        await live.end()
        assert [task.step for task in tasks] == list(range(len(tasks)))
        assert sum(task.restarts for task in tasks) <= 2
        assert hung not in tasks[-1].splits
        assert live.reports.keys() == set(CHAIN)
        assert tasks[-1].splits.keys() | {hung} >= {"ue", "gnb", "mec"} - {hung}  # the others still serve
        assert_answered(here.service, tasks)

    run_service(here, script)


@pytest.mark.parametrize("policy", [Policy(), Policy(patience_s=1.0)], ids=["patient", "impatient"])
def test_a_node_that_hangs_before_its_first_split_costs_is_named(policy, monkeypatch):
    """Impatience concerns tasks, and none is under way before every node has told its costs."""
    assert run.SILENCE_S <= 12.0  # beside which the run takes its time to end
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    here = stage(policy=policy)

    async def script(live: LiveService) -> None:
        await live.join(*CHAIN)
        live.hang("mec")
        await live.set_route(*CHAIN)
        await live.begin()
        await live.until_tasks(1)

    with pytest.raises(RunError, match=r"^(\w+, )*mec(, \w+)*: not heard of for 4 s"):
        run_service(here, script)


def test_updates_have_the_bytes_of_their_frames():
    async def script(live: LiveService) -> None:
        await live.join(*CHAIN)
        await live.set_route(*CHAIN)
        await live.until_updates()
        for _ in range(3):
            assert await live.update("cloud") > 0
        await live.end()
        frame = wire_size(sci(1 << 20, "mec", [0.0] * (LAYERS + 1)))
        first = wire_size(sci(1, "mec", [0.0] * (LAYERS + 1)))
        sent = live.reports["mec"].sent_downlink["sci"]
        assert (sent.messages, sent.payload_bytes) == (4, 4 * 4 * (LAYERS + 1))
        assert sent.header_bytes == 3 * frame[0] + first[0]
        assert "sci" not in live.reports["ue"].sent_uplink

    run_service(stage(), script)


def test_a_split_follows_what_is_told_of_a_link_and_does_not_flap():
    """Two in a row, so that where the link is to be slow the UE does all: a picture takes 98 s, its layers 0.1."""
    fast, slow = LinkSpec(rate_bps=8e6), LinkSpec(rate_bps=1e3)
    here = stage(policy=Policy(hysteresis=0.1))

    async def then(live: LiveService, link: LinkSpec) -> int:
        before = seen(live)
        await live.announce_link("ue", "cloud", link)
        await first_after(live, before)
        return live.split_points[-1].layers

    async def script(live: LiveService) -> None:
        await begin(live, "ue", "cloud")
        await first_after(live, (0, 0))
        first = live.split_points[-1].layers
        assert first != LAYERS
        for wobble in (1.02, 0.98, 1.01, 0.99):
            assert await then(live, LinkSpec(rate_bps=wobble * 8e6)) == first
        assert await then(live, slow) == LAYERS
        for wobble in (1.02, 0.98):
            assert await then(live, LinkSpec(rate_bps=wobble * 1e3)) == LAYERS
        assert await then(live, fast) == first
        await live.end()
        assert live.reports["ue"].switches == 2
        assert live.tasks[-1].splits["ue"] == first
        assert_answered(here.service, live.tasks)

    run_service(here, script)


def test_a_split_follows_a_link_whose_rate_nobody_tells():
    """At 50 Mbit/s a picture takes 2 ms, at 1 Mbit/s 98, all layers of the UE 20 ms: so then it does them."""
    here = stage(policy=Policy(check_s=0.02, rate_transfers=3, remember_s=0.5), pace=Pace(tasks=4000))
    here = msgspec.structs.replace(
        here,
        links={("ue", "cloud"): Duplex(up=LINK, down=LINK)},
        layer_s={"ue": [0.02 / LAYERS] * LAYERS, "cloud": [0.001 / LAYERS] * LAYERS},
        known={("ue", "cloud"): LinkSpec(rate_bps=50e6)},
    )

    async def until_it_does(live: LiveService, layers: int) -> None:
        while live.tasks[-1].splits["ue"] != layers:
            await live.until_tasks(len(live.tasks) + 1)

    async def script(live: LiveService) -> None:
        await begin(live, "ue", "cloud")
        await live.until_tasks(1)
        assert live.tasks[0].splits["ue"] == 0
        slow = LinkProfile(rate_bps=1e6, delay_s=LINK.delay_s)
        await live.set_link("ue", "cloud", Duplex(up=slow, down=slow))
        await until_it_does(live, LAYERS)
        await live.set_link("ue", "cloud", Duplex(up=LINK, down=LINK))
        await until_it_does(live, 0)  # it is forgotten that it was slow, and found that it is not
        assert_answered(here.service, live.tasks)

    run_service(here, script)


def test_links_that_are_off_are_refused_before_a_node_starts(monkeypatch):
    async def off(ends, links, backend, mode):
        assert (ends[0], links[0], backend, mode) == (("ue", "gnb2"), Duplex(), "emulated", "refuse")
        raise RunError("the link ue to gnb is off", weight=2)

    async def script(live: LiveService) -> None:
        raise AssertionError("it began all the same")

    monkeypatch.setattr(run, "try_links", off)
    with pytest.raises(RunError, match="ue to gnb is off"):
        live_service.run_service(stage(("ue", "gnb")), script)


def test_links_of_no_shaping_are_unlimited():
    slow = stage(("ue", "gnb"))
    slow.links["ue", "gnb"] = Duplex(up=LinkProfile(delay_s=100.0))

    async def script(live: LiveService) -> None:
        await begin(live, "ue", "gnb")
        await live.until_tasks(1)
        assert list(live.tasks[0].splits) == ["ue", "gnb"]

    run_service(slow, script, shaping="none")


@pytest.mark.promise("Nodes", "the UE of an inference service is killed", "the run ends and names it")
def test_a_dead_ue_ends_the_service():
    async def script(live: LiveService) -> None:
        await live.join("ue", "gnb")
        await live.set_route("ue", "gnb")
        live.kill("ue")
        await live.until_tasks(1)

    with pytest.raises(RunError, match="ue was killed by SIGKILL"):
        run_service(stage(), script)


def test_a_node_that_fails_is_named():
    async def script(live: LiveService) -> None:
        await live.join("ue")

    with pytest.raises(RunError, match="ue: ModelError: unknown model 'nothing'"):
        run_service(stage(model="nothing"), script)


def test_the_ues_tasks_are_the_data_sets_test_pictures():
    service = stage().service
    assert pictures_of(service).shape == (8, *SHAPE)
    assert len(load_data(service).test.labels) == 8
