"""Nodes with roles and workers that do as they are told, over in-memory channels and over one that waits."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from nodes.errors import PeerLostError, ProtocolError
from nodes.runtime.actions import Action, Compute, Direction, Finish, Role, Send
from nodes.runtime.executors import PacedExecutor, ThreadExecutor, inline, on_device
from nodes.runtime.node import Node
from nodes.spec.job import Device, Timing
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.messages import Activation, AnyMessage, Gradient, Result, Shutdown

RESULT = Result(assignment=0, step=1)
ACTIVATION = Activation(assignment=0, step=0, train=False, tensors={})
GRADIENT = Gradient(assignment=0, step=0, tensors={})


class Scripted(Role):
    """A role that answers each kind of message, received or computed, with given actions."""

    def __init__(self, **answers: list[Action]) -> None:
        self._answers = answers
        self.seen: list[AnyMessage] = []

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        self.seen.append(message)
        answer = self._answers.get(type(message).__name__)
        if answer is None:
            raise ProtocolError(f"unexpected {type(message).__name__}")
        return answer

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        return self.receive("previous", reply, now)


@dataclass(frozen=True)
class Work(Compute):
    """Call the worker; ``forward`` says whether layers run forward."""

    forward: bool = True

    @property
    def runs_forward(self) -> bool:
        return self.forward

    def run(self, worker: Callable[[], AnyMessage]) -> AnyMessage:
        return worker()


def answer() -> AnyMessage:
    return RESULT


def node(role: Scripted, channels: dict[Direction, Channel], worker: Any = None, compute: Any = inline) -> Node:
    return Node("mec", role, worker or answer, compute, channels, asyncio.get_running_loop().time)


class Slow(MemoryChannel):
    """Sends only once it may."""

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    async def send(self, message: AnyMessage) -> None:
        self.asked.set()
        await self.may.wait()
        await super().send(message)


async def test_what_was_decided_before_the_end_is_sent_before_the_end():
    ours, theirs = memory_pair("mec", "ue", Slow)
    role = Scripted(Shutdown=[Send("previous", RESULT), Send("previous", GRADIENT), Finish()])
    running = asyncio.create_task(node(role, {"previous": ours}).run())
    theirs.may.set()
    await theirs.send(Shutdown())
    await ours.asked.wait()
    assert not running.done()
    ours.may.set()
    await running
    assert isinstance(await theirs.receive(), Result)
    assert isinstance(await theirs.receive(), Gradient)


async def test_actions_are_done_in_order_and_replies_go_through_the_role():
    ours, theirs = memory_pair("mec", "ue")
    role = Scripted(Activation=[Work()], Result=[Send("previous", GRADIENT)], Shutdown=[Finish()])
    running = asyncio.create_task(node(role, {"previous": ours}).run())
    await theirs.send(ACTIVATION)
    assert isinstance(await theirs.receive(), Gradient)
    await theirs.send(Shutdown())
    await running
    assert [type(message) for message in role.seen] == [Activation, Result, Shutdown]


@pytest.mark.parametrize("compute", [inline, ThreadExecutor()], ids=["inline", "thread"])
async def test_what_the_worker_raises_ends_the_node(compute):
    def work() -> AnyMessage:
        raise MemoryError("64 GiB")

    ours, theirs = memory_pair("mec", "ue")
    await theirs.send(ACTIVATION)
    with pytest.raises(MemoryError, match="64 GiB"):
        await node(Scripted(Activation=[Work()]), {"previous": ours}, work, compute).run()


async def test_what_the_role_raises_ends_the_node():
    ours, theirs = memory_pair("mec", "ue")
    await theirs.send(GRADIENT)
    with pytest.raises(ProtocolError, match="unexpected Gradient"):
        await node(Scripted(), {"previous": ours}).run()


async def test_a_peer_that_goes_before_the_end_is_named():
    up, _ = memory_pair("mec", "ue")
    down, cloud = memory_pair("mec", "cloud")
    await cloud.close()
    with pytest.raises(PeerLostError, match="cloud") as raised:
        await node(Scripted(), {"previous": up, "next": down}).run()
    assert raised.value.peer == "cloud"


async def test_a_peer_that_goes_before_its_last_message_is_named():
    up, ue = memory_pair("mec", "ue")
    down, cloud = memory_pair("mec", "cloud", Slow)
    running = asyncio.create_task(
        node(Scripted(Shutdown=[Send("next", Shutdown()), Finish()]), {"previous": up, "next": down}).run()
    )
    await ue.send(Shutdown())
    await cloud.close()
    down.may.set()
    with pytest.raises(PeerLostError, match="cloud"):
        await running


async def test_an_own_failure_counts_more_than_a_lost_peer():
    up, ue = memory_pair("mec", "ue")
    await ue.send(GRADIENT)
    await ue.close()
    with pytest.raises(ProtocolError):
        await node(Scripted(), {"previous": up}).run()


async def test_peers_may_close_right_after_the_shutdown():
    up, ue = memory_pair("mec", "ue", Slow)
    down, cloud = memory_pair("mec", "cloud")
    role = Scripted(Shutdown=[Send("next", Shutdown()), Send("previous", RESULT), Finish()])
    running = asyncio.create_task(node(role, {"previous": up, "next": down}).run())
    ue.may.set()
    await ue.send(Shutdown())
    assert isinstance(await cloud.receive(), Shutdown)
    await cloud.close()
    with pytest.raises(ChannelClosed):
        await down.receive()  # the node can know by now, and has not yet sent all
    up.may.set()
    await running
    assert isinstance(await ue.receive(), Result)


async def test_a_cancelled_node_leaves_no_task():
    before = asyncio.all_tasks()
    ours, _ = memory_pair("mec", "ue")
    running = asyncio.create_task(node(Scripted(), {"previous": ours}).run())
    await asyncio.wait([running], timeout=0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() == before


async def test_the_loop_goes_on_while_a_thread_computes():
    seen = threading.Event()

    class Watched(Scripted):
        def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
            if isinstance(message, Gradient):
                seen.set()
            return super().receive(sender, message, now)

    def work() -> AnyMessage:
        assert seen.wait(300), "the loop stood still"
        return RESULT

    ours, theirs = memory_pair("mec", "ue")
    role = Watched(Activation=[Work()], Gradient=[], Result=[Finish()])
    await theirs.send(ACTIVATION)
    await theirs.send(GRADIENT)
    await node(role, {"previous": ours}, work, ThreadExecutor()).run()
    assert [type(message) for message in role.seen] == [Activation, Gradient, Result]


async def test_time_is_taken_by_the_node_s_clock():
    ours, theirs = memory_pair("mec", "ue")
    times = iter(range(100))
    role = Scripted(Activation=[Work()], Result=[Finish()])
    await theirs.send(ACTIVATION)
    timed = Node("mec", role, answer, inline, {"previous": ours}, lambda: float(next(times)))
    await timed.run()
    assert timed.usage.compute_s == 1.0
    assert timed.usage.total_s == float(next(times)) - 1


class Times:
    """Stands for ``time``: work and sleep move it on; half of the work is CPU time of the thread."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cpu = 7.0

    def perf_counter(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.cpu

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, reply: AnyMessage) -> AnyMessage:
        self.now += 0.5
        self.cpu += 0.25
        return reply


TIMED = Device(timing=Timing(forward_s=2.0, backward_s=0.75))


@pytest.mark.parametrize(
    ("device", "call", "reply", "spent"),  # seconds until it is done, and of these beyond the device's
    [
        (TIMED, Work(), ACTIVATION, (2.0, 0.0)),
        (TIMED, Work(), GRADIENT, (2.75, 0.0)),  # the model ends here
        (TIMED, Work(False), GRADIENT, (0.75, 0.0)),
        (TIMED, Work(False), RESULT, (0.5, 0.5)),
        (Device(timing=Timing(forward_s=0.125)), Work(), ACTIVATION, (0.5, 0.375)),
        (Device(slowdown=8.0), Work(), ACTIVATION, (2.0, 0.0)),
        (Device(), Work(), ACTIVATION, (0.5, 0.25)),
    ],
)
async def test_stretched_work_takes_as_long_as_on_the_device(monkeypatch, device, call, reply, spent):
    times = Times()
    monkeypatch.setattr("nodes.runtime.executors.time", times)
    compute = PacedExecutor(inline, on_device(device))
    assert await compute(call, lambda: times.work(reply)) is reply
    assert (times.now - 100.0, compute.overrun_s) == spent


def test_a_device_is_slower_by_a_factor_or_by_its_timing():
    with pytest.raises(ValueError, match="at least 1"):
        Device(slowdown=0.5)
    with pytest.raises(ValueError, match="not both"):
        Device(slowdown=2.0, timing=Timing())
    with pytest.raises(ValueError, match="negative"):
        Timing(forward_s=-1.0)
