"""What joins the nodes of a live run, and who shapes it? One backend a run, entered before its nodes start."""

import asyncio
import heapq
import operator
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol, Self

from bench.processes import Address, RunError
from netem.emulate import Emulator
from netem.link import LinkProfile
from netem.playback import schedules
from netem.profiles import Duplex
from reports.record import Shaping as Backend

SILENCE_S = 10.0  # an emulator that says nothing for so long is taken for stopped
ASK_S = 0.5  # so often it is asked whether it lives


class Shaping(Protocol):
    """The links of one run, from the UE on; an async context manager that undoes all it did.

    ``namespaces`` names the network namespace of each node that is to live in one.
    """

    namespaces: Mapping[str, str]

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def join(self, addresses: Mapping[str, Address]) -> list[Address | None]:
        """Make the links; where each node finds its downstream neighbour, as ``addresses`` say where all listen."""

    async def play(self) -> None:
        """Let the links that have traces follow them from now on."""

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """Give the link from node ``hop`` to the next new profiles from now on; None keeps the old one."""

    async def watch(self) -> None:
        """Raise RunError as soon as the links work no more."""


class Emulated:
    """Links in user space: an emulator in front of each node that a limited link leads to."""

    def __init__(self, nodes: Sequence[str], links: Sequence[Duplex], seed: int) -> None:
        self.namespaces: Mapping[str, str] = {}
        self._nodes, self._seed = nodes, seed
        self._limited = {hop: link for hop, link in enumerate(links) if link != Duplex()}
        self._stands_at: dict[int, Address] = {}
        self._emulator = Emulator()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._limited:
            await self._stack.enter_async_context(self._emulator)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def join(self, addresses: Mapping[str, Address]) -> list[Address | None]:
        downstream: list[Address | None] = [*(addresses[name] for name in self._nodes[1:]), None]
        for hop, link in self._limited.items():
            target = addresses[self._nodes[hop + 1]]
            address = await self._emulator.add_link(
                target,
                link.up,
                link.down,
                seed=self._seed + hop,
                namespace=self.namespaces.get(self._nodes[hop]),
                half_duplex=link.half_duplex,
            )
            downstream[hop] = self._stands_at[hop] = address
        return downstream

    async def play(self) -> None:
        for hop, link in self._limited.items():
            if link.trace is not None:
                await self._emulator.play(self._stands_at[hop], link, time.monotonic())

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """See ``Shaping.change``. Raises ValueError for a link that was unlimited: no emulator stands there."""
        if hop in self._stands_at:
            await self._emulator.change(self._stands_at[hop], up, down)
        elif not all(profile is None or profile.unlimited for profile in (up, down)):
            raise ValueError(f"the link from {self._nodes[hop]} began as unlimited and cannot be changed")

    async def watch(self) -> None:
        try:
            while self._stands_at:
                async with asyncio.timeout(SILENCE_S):
                    await self._emulator.counts(next(iter(self._stands_at.values())))
                await asyncio.sleep(ASK_S)
        except TimeoutError:
            raise RunError(f"the emulator has not been heard of for {SILENCE_S:g} s", weight=2) from None
        except RuntimeError as error:  # EmulatorError, or that of a transport to a process that is gone
            raise RunError(f"the emulator of the links has ended: {error}", weight=2) from None


def shaped(nodes: Sequence[str], links: Sequence[Duplex], backend: Backend, seed: int) -> Shaping:
    """What joins ``nodes`` by ``links``, from the first on, as ``backend`` does it. Raises ValueError."""
    if backend in ("kernel", "tbf+emulated"):
        from bench.kernel_shaping import Kernel  # noqa: PLC0415  (pyroute2)

        return Kernel(nodes, links, seed, "netem" if backend == "kernel" else "tbf")
    return Emulated(nodes, [] if backend == "none" else links, seed)


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
