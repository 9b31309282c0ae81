"""A compute thread that does not return: what is told of it, and the end of a node that waits for it."""

import asyncio
import threading

import pytest

from nodes.runtime import executors
from nodes.runtime.executors import StuckThreadError, ThreadExecutor


def stuck(release: threading.Event) -> str:
    release.wait()
    return "released"


async def test_a_long_computation_is_told_with_its_time_and_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "LONG_S", 0.0)
    compute, release = ThreadExecutor(), threading.Event()
    assert compute.long_since() is None
    running = asyncio.create_task(compute.run(lambda: stuck(release)))
    while (found := compute.long_since()) is None or " in stuck" not in found[1]:  # noqa: ASYNC110 (a thread)
        await asyncio.sleep(0)
    assert found[0] >= 0
    assert f"{__file__}:" in found[1]
    release.set()
    assert await running == "released"
    assert compute.long_since() is None
    await compute.end()


async def test_a_short_computation_is_not_told() -> None:
    compute, release = ThreadExecutor(), threading.Event()
    running = asyncio.create_task(compute.run(lambda: stuck(release)))
    await asyncio.sleep(0)
    assert compute.long_since() is None
    release.set()
    await running
    await compute.end()


async def test_the_end_waits_for_what_runs_drops_what_waits_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    compute, release = ThreadExecutor(), threading.Event()
    running, waiting = (asyncio.create_task(compute.run(lambda: stuck(release))) for _ in range(2))
    await asyncio.sleep(0)
    monkeypatch.setattr(executors, "END_S", 0.05)
    with pytest.raises(StuckThreadError, match=r"has not returned 0\.05 s after the end of its job"):
        await compute.end()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    ending = asyncio.create_task(compute.end())
    release.set()
    await ending
    assert await running == "released"
