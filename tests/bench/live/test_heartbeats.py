"""What heartbeats tell a runner: that a node lives, and that a computation of it does not return."""

import asyncio
from typing import Any

import pytest

from bench.live.run import STUCK_S, LiveRun, SilentError
from nodes.wire.channel import memory_pair
from nodes.wire.messages import RUNNER, AnyMessage, Computation, Heartbeat


class Lonely(LiveRun):
    """A run of one process, which it is told of and loses."""

    def __init__(self) -> None:
        shaping: Any = type("Unshaped", (), {"hosts": None})
        super().__init__(shaping)
        self.lost: list[str] = []

    async def setup(self, name: str) -> Any:
        raise AssertionError(name)

    async def heard(self, name: str, message: AnyMessage) -> None:
        raise AssertionError(message)

    async def gone(self, name: str, error: Any) -> None:
        assert isinstance(error, SilentError)
        self.lost.append(str(error))


def beat(*computing: tuple[str, float]) -> Heartbeat:
    return Heartbeat(node="mec", computing=tuple(Computation(node, s, "stage.py:3 in encode") for node, s in computing))


@pytest.mark.promise(
    "Time", "a node's computation does not return for an hour", "the run ends and names the node with its computation"
)
@pytest.mark.parametrize(
    ("heartbeat", "lost"),
    [
        (beat(), []),
        (beat(("mec", 900.0)), []),
        (
            beat(("client1", 3.0), ("client2", STUCK_S + 1)),
            ["client2 has been computing for 3601 s at stage.py:3 in encode, at most 3600 s is right"],
        ),
    ],
)
async def test_a_computation_that_does_not_return_is_told_with_its_node(heartbeat: Heartbeat, lost: list[str]) -> None:
    run, (theirs, ours) = Lonely(), memory_pair("mec", RUNNER)
    await theirs.send(heartbeat)
    await run._take("mec", ours)
    assert run.lost == lost


@pytest.mark.promise(
    "Time", "a run is interrupted as a node's computation does not return", "the node is named with its computation"
)
async def test_an_interrupted_run_tells_what_its_nodes_were_at() -> None:
    run, (theirs, ours) = Lonely(), memory_pair("mec", RUNNER)
    assert run._standing() == "no node computed of those to start"
    for heartbeat, told in (
        (beat(("mec", 58.2)), "mec has been computing for 58 s at stage.py:3 in encode"),
        (beat(), "no node computed of mec"),
    ):
        await theirs.send(heartbeat)
        run._controls["mec"] = ours
        await run._take("mec", ours)
        assert run._standing() == told


async def test_a_runner_sends_heartbeats_until_the_channel_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.live.run.HEARTBEAT_S", 0.0)
    theirs, ours = memory_pair("mec", RUNNER)
    from bench.live.run import _beat  # noqa: PLC0415

    beating = asyncio.create_task(_beat(ours))
    beats = [await theirs.receive() for _ in range(3)]
    assert [one.node for one in beats if isinstance(one, Heartbeat)] == [RUNNER] * 3
    await theirs.close()
    await beating
