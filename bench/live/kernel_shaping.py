"""How does the kernel shape the links of a live run? Each node in a network namespace, a veth pair for each link.

With netem the kernel does all; with tbf alone it does the rate, and an emulator in the upstream node's namespace
the rest. The runner's own connections enter a namespace by its loopback device, which nothing shapes. What an
earlier runner that was killed left is removed first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

from msgspec.structs import replace

from bench.live.processes import HostPort
from bench.live.shaping import Emulated, LinkEnds, follow
from netem.kernel import namespace_owner
from netem.kernel.namespace_network import NamespaceNetwork
from netem.kernel.tc import ShaperKind
from netem.link import LinkProfile
from netem.profiles import Duplex


class Kernel:
    """See ``bench.live.shaping.Shaping``. ``kind`` is what the kernel has. Raises ShapeError, EmulatorError.

    Links that follow traces are changed by this process, each change when its time has come.
    """

    namespaces: Mapping[str, str]

    def __init__(
        self, nodes: Sequence[str], links: Sequence[Duplex], seed: int, kind: ShaperKind, ends: Sequence[LinkEnds]
    ) -> None:
        """Raises ValueError for a half-duplex link: two ends that shape what they send share no medium."""
        for (near, _), link in zip(ends, links, strict=False):
            if link.half_duplex:
                raise ValueError(f"the link from {nodes[near]} is half duplex, which only --shaping emulated can do")
        self._nodes, self._links, self._kind = nodes, links, kind
        self._network = NamespaceNetwork(kind, nodes, ends)
        self._emulated = Emulated(nodes, [_rest(link) for link in links] if kind == "tbf" else [], seed, ends)
        self._thread = ThreadPoolExecutor(1)  # netlink's, which runs a loop of its own
        self._began = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._do(namespace_owner.remove_orphaned)
            await self._do(self._network.__enter__)
            self.namespaces = self._emulated.namespaces = dict(zip(self._nodes, self._network.paths, strict=True))
            for hop, link in enumerate(self._links):
                if link != Duplex():
                    await self._do(self._network.shape, hop, link)
            await self._emulated.__aenter__()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await self._emulated.__aexit__()
        finally:
            await self._do(self._network.__exit__)
            self._thread.shutdown()

    async def connect_address(self, hop: int, far: HostPort) -> HostPort:
        return await self._emulated.connect_address(hop, (self._network.address(hop, 1), far[1]))

    async def play(self) -> None:
        self._began.set()

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        for end, profile in enumerate((up, down)):
            if profile is not None:
                await self._do(self._network.shape_end, hop, end, profile)
        if self._kind == "tbf":
            await self._emulated.change(hop, up and _without_rate(up), down and _without_rate(down))

    async def watch(self) -> None:
        await asyncio.gather(self._emulated.watch(), self._follow())

    async def _follow(self) -> None:
        """Change the links that follow traces, once they are to."""
        await self._began.wait()
        played = [(hop, link) for hop, link in enumerate(self._links) if link.trace is not None]
        await asyncio.gather(*(follow(link, partial(self.change, hop)) for hop, link in played))

    async def _do(self, function: Callable[..., Any], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _rest(link: Duplex) -> Duplex:
    """What of ``link`` tbf leaves to do. A trace may be about any of it, so an emulator stands there at any rate."""
    return replace(link, up=_without_rate(link.up), down=_without_rate(link.down))


def _without_rate(profile: LinkProfile) -> LinkProfile:
    return replace(profile, rate_bps=None)
