"""Time of a tensor hop over SplitMEC's transport, raw sockets, gloo and pickle.

Two processes on this machine measure all transports hop by hop in turn, so that load slows them alike. Only the
ratios can be claimed; the seconds depend on the machine.
"""

import asyncio
import multiprocessing
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
import uvloop

from bench.experiments.general import transport_baselines as hops
from bench.suite.experiment import Context, Measurement
from nodes.runtime.allocator import keep_freed_memory
from nodes.wire.codec import Limits
from nodes.wire.transport import Server
from reports.record import CaseValue

Loop = Literal["uvloop", "asyncio"]
LOOPS: dict[Loop, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


class HopParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``hops`` of each size and transport are measured after ``warmup`` others."""

    sizes_bytes: tuple[int, ...] = (4 << 10, 64 << 10, 4 << 20, 32 << 20)
    hops: int = 200
    warmup: int = 10
    loop: Loop = "uvloop"


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters that both processes share."""

    loop: Loop
    plan: hops.TransferPlan
    token: str
    limits: Limits
    store: Path  # the file through which gloo's ends find each other


def hop(parameters: HopParameters, context: Context) -> Iterator[Measurement]:
    """Median and 99th percentile of a hop by size and transport, and ratios of our medians to the others'."""
    setup = Setup(
        loop=parameters.loop,
        plan=[(size, parameters.warmup + parameters.hops) for size in parameters.sizes_bytes],
        token=secrets.token_hex(),
        limits=Limits(payload_bytes=max(parameters.sizes_bytes)),
        store=context.scratch / "gloo",
    )
    setup.store.unlink(missing_ok=True)  # left by a killed run
    with asyncio.Runner(loop_factory=LOOPS[parameters.loop]) as runner:
        seconds = runner.run(_measure(setup, parameters.warmup, context))
    for size, by_way in seconds.items():
        case: dict[str, CaseValue] = {"size_bytes": size, "loop": parameters.loop}
        median_s = {way: float(np.median(times)) for way, times in by_way.items()}
        for way, times in by_way.items():
            yield Measurement("median_s", median_s[way], "s", case | {"way": way})
            yield Measurement("p99_s", float(np.quantile(times, 0.99)), "s", case | {"way": way})
        for way in ("raw", "gloo", "pickle"):
            yield Measurement(f"ratio_to_{way}", median_s["splitmec"] / median_s[way], "1", case)


async def _measure(setup: Setup, warmup: int, context: Context) -> dict[int, dict[str, list[float]]]:
    """Seconds of every hop after the warm-up, by size and transport."""
    generator = torch.Generator().manual_seed(context.seed)
    seconds: dict[int, dict[str, list[float]]] = {}
    async with _ways(setup) as ways:
        for size, rounds in setup.plan:
            tensor = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=generator)
            times: dict[str, list[float]] = {name: [] for name in ways}
            names = deque(ways)
            for _ in range(rounds):
                names.rotate()  # no transport is always first
                for name in names:
                    began = time.perf_counter()
                    await ways[name].hop(tensor)
                    times[name].append(time.perf_counter() - began)
            seconds[size] = {name: measured[warmup:] for name, measured in times.items()}
            context.say(f"{size} bytes: {rounds} hops each of {', '.join(ways)}")
    return seconds


@asynccontextmanager
async def _ways(setup: Setup) -> AsyncIterator[dict[str, hops.Sender]]:
    """All transports to a peer process, which ends with the block, or with this process even if that is killed."""
    spawn = multiprocessing.get_context("spawn")
    pipe, theirs = spawn.Pipe()
    peer = spawn.Process(target=_peer, args=(theirs, setup), daemon=True)
    peer.start()
    theirs.close()  # so that the end of the pipe signals the other end's death
    try:
        ports: dict[str, int] = await asyncio.to_thread(pipe.recv)
        ours = await hops.open_ours(ports["splitmec"], setup.token, setup.limits)
        raw, pickled = await hops.open_raw(ports["raw"], setup.plan), await hops.open_pickle(ports["pickle"])
        gloo = hops.GlooWay(await asyncio.to_thread(hops.open_gloo, setup.store, 0))
        yield {"splitmec": ours, "raw": raw, "gloo": gloo, "pickle": pickled}
        await ours.channel.close()
        raw.transport.close()
        pickled.writer.close()
        await pickled.writer.wait_closed()
    finally:
        pipe.close()
        await asyncio.to_thread(peer.join, 5)
        peer.kill()


def _peer(pipe: Connection, setup: Setup) -> None:
    """The peer process: answers on every transport until the pipe ends."""
    keep_freed_memory()  # as every node does; pickle profits too
    threading.Thread(target=hops.answer_gloo, args=(setup.store, setup.plan), daemon=True).start()
    with asyncio.Runner(loop_factory=LOOPS[setup.loop]) as runner:
        runner.run(_answer(pipe, setup))


async def _answer(pipe: Connection, setup: Setup) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pipe.fileno(), ended.set)
    server = Server(setup.token, setup.limits)
    await server.start()
    raw = await loop.create_server(lambda: hops.RawEnd(setup.plan), hops.HOST)
    pickled = await asyncio.start_server(hops.answer_pickle, hops.HOST)
    ours = asyncio.create_task(hops.answer_ours(server))
    pipe.send({"splitmec": server.port, "raw": _port(raw), "pickle": _port(pickled)})
    await ended.wait()
    loop.remove_reader(pipe.fileno())
    raw.close()
    pickled.close()
    ours.cancel()
    await server.close()


def _port(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
