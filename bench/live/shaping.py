"""Shaping of the links of a live run by the user-space emulator, on which other backends build."""

import asyncio
import heapq
import operator
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Self

from bench import events
from bench.live.processes import HostPort, Nodes, RunError
from bench.suite.experiment import SelfTest
from netem.emulate import Emulator
from netem.link import LinkProfile
from netem.profiles import Duplex
from netem.trace_schedule import schedules

SILENCE_S = 10.0  # timeout of the emulator's answers
ASK_S = 0.5  # interval of the emulator's health check

LinkEnds = tuple[int, int]  # numbers of two nodes, the upstream one first


class Shaping:
    """Links of one run, numbered from the UE on; an async context manager, entered before any node starts.

    Limited links have an emulator in front of their downstream node. ``namespaces`` are the network namespace paths of
    the nodes that run in one. ``hosts`` are the nodes of the run where they run on machines of their own.
    """

    hosts: Nodes | None = None

    def __init__(self, nodes: Sequence[str], links: Sequence[Duplex], seed: int, ends: Sequence[LinkEnds]) -> None:
        self.namespaces: Mapping[str, str] = {}
        self._near, self._seed = [nodes[near] for near, _ in ends], seed
        self._limited = {hop: link for hop, link in enumerate(links) if link != Duplex()}
        self._emulated_at: dict[int, HostPort] = {}
        self._began: float | None = None  # start of the traces
        self._emulator = Emulator()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._limited:
            await self._stack.enter_async_context(self._emulator)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def connect_address(self, hop: int, far: HostPort) -> HostPort:
        """Address at which the upstream node of link ``hop`` reaches the downstream one, which listens at ``far``."""
        link = self._limited.get(hop)
        if link is None:
            return far
        if hop not in self._emulated_at:
            self._emulated_at[hop] = await self._emulator_of(hop).add_link(
                far, link, seed=self._seed + hop, namespace=self.namespaces.get(self._near[hop])
            )
            await self._follow(hop)
        return self._emulated_at[hop]

    async def play(self) -> None:
        """Start the links' traces."""
        self._began = time.monotonic()
        for hop in self._emulated_at:
            await self._follow(hop)

    async def _follow(self, hop: int) -> None:
        """Play the trace of link ``hop``, if it has one and traces have started."""
        link = self._limited[hop]
        if link.trace is not None and self._began is not None:
            began_s = self._began + self._offset_s(hop)
            await self._emulator_of(hop).play(self._emulated_at[hop], link, began_s)

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """Give link ``hop`` new profiles; None keeps the old one. Raises ValueError for an unlimited link."""
        if hop in self._emulated_at:
            await self._emulator_of(hop).change(self._emulated_at[hop], up, down)
        elif not all(profile is None or profile.unlimited for profile in (up, down)):
            near = self._near[hop]
            raise ValueError(f"link from {near}: an unlimited link cannot be changed; give it a limit at the start")

    async def test(self, names: Sequence[str], mode: SelfTest) -> list[str]:
        """Try the links that lead away from ``names`` on hosts that have started; complaints. Raises RunError."""
        return []

    def _emulator_of(self, hop: int) -> Emulator:
        """The emulator of link ``hop``."""
        return self._emulator

    def _offset_s(self, hop: int) -> float:
        """By how much the clock of the emulator of link ``hop`` is ahead of this process's."""
        return 0.0

    async def watch(self) -> None:
        """Raise RunError once the links fail."""
        try:
            while self._limited:
                for hop in self._asked():
                    async with asyncio.timeout(SILENCE_S):
                        up, down = await self._emulator.carried(self._emulated_at[hop])
                    sent = {"up_bytes": up.n_bytes, "down_bytes": down.n_bytes}
                    events.emit("traffic", link=hop, **sent, up_bps=up.rate_bps, down_bps=down.rate_bps)
                await self._emulator.watch(ASK_S)
        except TimeoutError:
            raise RunError(f"the link emulator did not answer for {SILENCE_S:g} s", weight=2) from None
        except RuntimeError as error:  # EmulatorError, or a transport to an ended process
            raise RunError(f"the link emulator ended: {error}", weight=2) from None

    def _asked(self) -> list[int]:
        """Links about which the emulator is asked: one, to see that it lives, and all where somebody watches."""
        return list(self._emulated_at)[: None if events.watched() else 1]


async def follow(link: Duplex, change: Callable[[LinkProfile | None, LinkProfile | None], Awaitable[None]]) -> None:
    """Call ``change`` with the uplink and downlink profiles of the traces of ``link``, each at its time."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    up, down = schedules(link)
    ways = [((at, profile, None) for at, profile in up), ((at, None, profile) for at, profile in down)]
    for at, *profiles in heapq.merge(*ways, key=operator.itemgetter(0)):
        await asyncio.sleep(began + at - loop.time())
        await change(*profiles)
