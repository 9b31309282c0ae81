"""Nodes whose neighbours come and go, with roles that do as they are told, over in-memory channels."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nodes.runtime.actions import Action, Connect, Direction, Finish, Role, Send, Wake
from nodes.runtime.executors import inline
from nodes.runtime.node import Node
from nodes.runtime.virtual_time import run_virtual
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.messages import AnyMessage, Heartbeat, Peer, Replaced, Result, Shutdown

RESULT = Result(assignment=0, step=1)
GO = Heartbeat(node="runner")


class Told(Role):
    """A role that notes what it is told and answers as ``answers`` say."""

    def __init__(self, **answers: list[Action]) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._answers = answers

    def _answer(self, kind: str, *what: Any) -> list[Action]:
        self.seen.append((kind, *what))
        return self._answers.get(kind, [])

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        return self._answer(type(message).__name__, sender)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        return self._answer("computed")

    def joined(self, direction: Direction, peer: str, now: float) -> list[Action]:
        return self._answer("joined", direction, peer)

    def lost(self, direction: Direction, now: float) -> list[Action]:
        return self._answer("lost", direction)

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        return self._answer("carried", direction, wire_bytes, wire_s)

    def woke(self, why: str, now: float) -> list[Action]:
        return self._answer("woke", why, now)


class Place:
    """A node, its runner's end, and the ends of those that it reaches."""

    def __init__(self, role: Told) -> None:
        ours, self.runner = memory_pair("mec", "runner")
        self.reached: dict[str, MemoryChannel] = {}
        clock: Callable[[], float] = asyncio.get_running_loop().time
        self.node = Node("mec", role, None, inline, {"runner": ours}, clock, self._connect)
        self.running = asyncio.create_task(self.node.run())

    async def _connect(self, peer: Peer) -> Channel:
        if peer.name == "dead":
            raise ChannelClosed("dead: refused")
        ours, self.reached[peer.name] = memory_pair("mec", peer.name)
        return ours

    async def idle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def go(self) -> None:
        await self.runner.send(GO)
        await self.idle()

    async def end(self) -> None:
        await self.runner.send(Shutdown())
        await self.running


async def test_it_reaches_whom_the_role_names_and_speaks_with_it():
    role = Told(Heartbeat=[Connect(Peer("cloud"))], joined=[Send("next", RESULT)], Result=[Finish()])
    place = Place(role)
    await place.go()
    assert isinstance(await place.reached["cloud"].receive(), Result)
    await place.reached["cloud"].send(RESULT)
    await place.running
    assert role.seen == [("Heartbeat", "runner"), ("joined", "next", "cloud"), ("Result", "next")]
    assert [(to, channel.peer) for to, channel in place.node.used] == [("next", "cloud")]


async def test_who_cannot_be_reached_and_who_goes_is_told_to_the_role():
    role = Told(Heartbeat=[Connect(Peer("dead"))], lost=[Connect(Peer("cloud"))], Shutdown=[Finish()])
    place = Place(role)
    await place.go()
    await place.reached["cloud"].close()
    await place.idle()
    assert role.seen[1:4] == [("lost", "next"), ("joined", "next", "cloud"), ("lost", "next")]
    await place.end()


async def test_who_comes_from_upstream_replaces_who_was_there_and_that_one_is_told():
    role = Told(Shutdown=[Finish()])
    place = Place(role)
    ends = {}
    for name in ("old", "new"):
        ends[name], ours = memory_pair(name, "mec")
        await place.node.attach("previous", ours)
    await place.idle()
    assert isinstance(await ends["old"].receive(), Replaced)
    with pytest.raises(ChannelClosed):
        await ends["old"].receive()
    assert role.seen == [("joined", "previous", "old"), ("joined", "previous", "new")]
    await ends["new"].send(RESULT)
    await place.idle()
    assert role.seen[-1] == ("Result", "previous")
    await place.end()


async def test_what_an_old_neighbour_still_says_is_dropped():
    role = Told(Result=[Connect(Peer("new"))], Heartbeat=[Connect(Peer("old"))], Shutdown=[Finish()])
    place = Place(role)
    await place.go()
    for _ in range(3):
        await place.reached["old"].send(RESULT)
    await place.idle()
    assert [what for what in role.seen if what[0] == "Result"] == [("Result", "next")]
    assert role.seen[-1] == ("joined", "next", "new")
    await place.end()


async def test_a_neighbour_that_leaves_in_order_is_not_lost():
    role = Told(Heartbeat=[Connect(Peer("cloud"))])
    place = Place(role)
    await place.go()
    await place.reached["cloud"].send(Shutdown())
    await place.reached["cloud"].close()
    await place.idle()
    assert role.seen[1:] == [("joined", "next", "cloud"), ("Shutdown", "next")]
    place.running.cancel()


async def test_who_comes_when_the_role_ends_or_later_is_told():
    role = Told()
    place = Place(role)
    (early, first), (late, last) = memory_pair("ue", "mec"), memory_pair("ue", "mec")
    place.node._events.put_nowait(lambda now: [Finish()])
    await place.node.attach("previous", first)  # behind the event that ends it
    await place.running
    await place.node.attach("previous", last)
    for end in (early, late):
        assert isinstance(await end.receive(), Shutdown)
        with pytest.raises(ChannelClosed):
            await end.receive()
    assert [what for what in role.seen if what[0] == "joined"] == []
    assert place.node.used == []


async def test_what_the_role_raises_ends_the_node_whoever_spoke():
    class Raises(Told):
        def joined(self, direction, peer, now):
            raise ZeroDivisionError("no neighbour")

    place = Place(Raises(Heartbeat=[Connect(Peer("cloud"))]))
    await place.runner.send(GO)
    with pytest.raises(ZeroDivisionError):
        await place.running


def test_it_wakes_when_the_role_said():
    async def main() -> list[tuple[Any, ...]]:
        role = Told(Heartbeat=[Wake(5.0, "task"), Wake(2.0, "update")], Shutdown=[Finish()])
        place = Place(role)
        await place.runner.send(GO)
        await asyncio.sleep(9)
        await place.end()
        return role.seen

    assert run_virtual(main())[1:3] == [("woke", "update", 2.0), ("woke", "task", 5.0)]


async def test_one_that_is_replaced_elsewhere_is_let_go_without_a_word():
    role = Told(Heartbeat=[Connect(Peer("cloud"))], Shutdown=[Finish()])
    place = Place(role)
    await place.go()
    await place.reached["cloud"].send(Replaced())
    await place.idle()
    with pytest.raises(ChannelClosed):
        await place.reached["cloud"].receive()
    assert role.seen[1:] == [("joined", "next", "cloud"), ("Replaced", "next")]
    await place.end()
