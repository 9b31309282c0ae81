"""What joins the nodes of a live run, and who shapes it? One backend a run, entered before its nodes start.

All nodes and links are known then, also of nodes that join later.
"""

import asyncio
import heapq
import operator
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol, Self

from bench.live.processes import HostPort, RunError
from netem.emulate import Emulator
from netem.link import LinkProfile
from netem.profiles import Duplex
from netem.trace_schedule import schedules

SILENCE_S = 10.0  # an emulator that says nothing for so long is taken for stopped
ASK_S = 0.5  # so often it is asked whether it lives

LinkEnds = tuple[int, int]  # numbers of two nodes, the upstream one first


class Shaping(Protocol):
    """The links of one run, numbered from the UE on; an async context manager that undoes all it did.

    ``namespaces`` names the network namespace of each node that is to live in one.
    """

    namespaces: Mapping[str, str]

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def connect_address(self, hop: int, far: HostPort) -> HostPort:
        """Where the upstream node of link ``hop`` finds the downstream one, which listens at ``far`` for itself."""

    async def play(self) -> None:
        """Let the links that have traces follow them from now on."""

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """Give link ``hop`` new profiles from now on; None keeps the old one."""

    async def watch(self) -> None:
        """Raise RunError as soon as the links work no more."""


class Emulated:
    """Links in user space: an emulator in front of each node that a limited link leads to."""

    def __init__(self, nodes: Sequence[str], links: Sequence[Duplex], seed: int, ends: Sequence[LinkEnds]) -> None:
        self.namespaces: Mapping[str, str] = {}
        self._near, self._seed = [nodes[near] for near, _ in ends], seed
        self._limited = {hop: link for hop, link in enumerate(links) if link != Duplex()}
        self._stands_at: dict[int, HostPort] = {}
        self._began: float | None = None  # when traces did
        self._emulator = Emulator()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._limited:
            await self._stack.enter_async_context(self._emulator)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def connect_address(self, hop: int, far: HostPort) -> HostPort:
        link = self._limited.get(hop)
        if link is None:
            return far
        if hop not in self._stands_at:
            self._stands_at[hop] = await self._emulator.add_link(
                far,
                link.up,
                link.down,
                seed=self._seed + hop,
                namespace=self.namespaces.get(self._near[hop]),
                half_duplex=link.half_duplex,
            )
            await self._follow(hop)
        return self._stands_at[hop]

    async def play(self) -> None:
        self._began = time.monotonic()
        for hop in self._stands_at:
            await self._follow(hop)

    async def _follow(self, hop: int) -> None:
        """Let link ``hop`` follow its trace, if it has one and the links are to; also one made after they were."""
        link = self._limited[hop]
        if link.trace is not None and self._began is not None:
            await self._emulator.play(self._stands_at[hop], link, self._began)

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """See ``Shaping.change``. Raises ValueError for a link that was unlimited: no emulator stands there."""
        if hop in self._stands_at:
            await self._emulator.change(self._stands_at[hop], up, down)
        elif not all(profile is None or profile.unlimited for profile in (up, down)):
            raise ValueError(f"the link from {self._near[hop]} began as unlimited and cannot be changed")

    async def watch(self) -> None:
        try:
            while self._limited:
                if self._stands_at:
                    async with asyncio.timeout(SILENCE_S):
                        await self._emulator.forwarded_bytes(next(iter(self._stands_at.values())))
                await self._emulator.watch(ASK_S)
        except TimeoutError:
            raise RunError(f"the emulator has not been heard of for {SILENCE_S:g} s", weight=2) from None
        except RuntimeError as error:  # EmulatorError, or that of a transport to a process that is gone
            raise RunError(f"the emulator of the links has ended: {error}", weight=2) from None


async def follow(link: Duplex, change: Callable[[LinkProfile | None, LinkProfile | None], Awaitable[None]]) -> None:
    """Tell ``change`` the profiles up and down that ``link`` takes by its traces, each when its time has come.

    That is as exact as this process is prompt; an emulator, which knows what is to come, is exact to the bit.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    up, down = schedules(link)
    ways = [((at, profile, None) for at, profile in up), ((at, None, profile) for at, profile in down)]
    for at, *profiles in heapq.merge(*ways, key=operator.itemgetter(0)):
        await asyncio.sleep(began + at - loop.time())
        await change(*profiles)
