"""Kernel shaping of a live run: each node in a network namespace, a veth pair per link.

With netem the kernel shapes everything; with tbf alone it limits the rate, and an emulator in the upstream node's
namespace does the rest. The runner connects to nodes over the namespace's loopback device, which is not shaped.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

from msgspec.structs import replace

from bench.live.processes import HostPort
from bench.live.shaping import LinkEnds, Shaping, follow
from netem.kernel import namespace_owner
from netem.kernel.namespace_network import NamespaceNetwork
from netem.kernel.tc import ShaperKind
from netem.link import LinkProfile
from netem.profiles import Duplex


class Kernel(Shaping):
    """Links of the kernel, emulated as far as it cannot shape them. This process applies traces. Raises ShapeError."""

    def __init__(
        self, nodes: Sequence[str], links: Sequence[Duplex], seed: int, kind: ShaperKind, ends: Sequence[LinkEnds]
    ) -> None:
        """Raises ValueError for a half-duplex link: two shaped ends share no medium."""
        for (near, _), link in zip(ends, links, strict=False):
            if link.half_duplex:
                raise ValueError(f"link from {nodes[near]}: half duplex needs --shaping emulated")
        super().__init__(nodes, [_rest(link) for link in links] if kind == "tbf" else [], seed, ends)
        self._nodes, self._links, self._kind = nodes, links, kind
        self._network = NamespaceNetwork(kind, nodes, ends)
        self._thread = ThreadPoolExecutor(1)  # for netlink, which runs its own event loop
        self._playing = asyncio.Event()

    async def __aenter__(self) -> Self:
        try:
            await self._do(namespace_owner.remove_orphaned)
            await self._do(self._network.__enter__)
            self.namespaces = dict(zip(self._nodes, self._network.paths, strict=True))
            for hop, link in enumerate(self._links):
                if link != Duplex():
                    await self._do(self._network.shape, hop, link)
            await super().__aenter__()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            await super().__aexit__()
        finally:
            await self._do(self._network.__exit__)
            self._thread.shutdown()

    async def connect_address(self, hop: int, far: HostPort) -> HostPort:
        return await super().connect_address(hop, (self._network.address(hop, 1), far[1]))

    async def play(self) -> None:
        self._playing.set()

    async def change(self, hop: int, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        for end, profile in enumerate((up, down)):
            if profile is not None:
                await self._do(self._network.shape_end, hop, end, profile)
        if self._kind == "tbf":
            await super().change(hop, up and _without_rate(up), down and _without_rate(down))

    async def watch(self) -> None:
        await asyncio.gather(super().watch(), self._play_traces())

    async def _play_traces(self) -> None:
        """Apply the traces, once started."""
        await self._playing.wait()
        played = [(hop, link) for hop, link in enumerate(self._links) if link.trace is not None]
        await asyncio.gather(*(follow(link, partial(self.change, hop)) for hop, link in played))

    async def _do(self, function: Callable[..., Any], *arguments: Any) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _rest(link: Duplex) -> Duplex:
    """``link`` without the rate, which tbf limits; a trace stays, as it may change anything."""
    return replace(link, up=_without_rate(link.up), down=_without_rate(link.down))


def _without_rate(profile: LinkProfile) -> LinkProfile:
    return replace(profile, rate_bps=None)
