"""Shaping of links between machines: each link is emulated by the machine of its upstream node."""

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Self

from bench.live.backends import shaped
from bench.live.hosts.control import RemoteEmulator
from bench.live.hosts.document import Hosts
from bench.live.hosts.in_use import hosts_in_use
from bench.live.hosts.nodes import HostNodes
from bench.live.link_calibration import Asked, CalibrationRow, row_of
from bench.live.link_self_test import BULK_S, MESSAGES, test_at
from bench.live.shaping import LinkEnds, Shaping
from bench.suite.experiment import SelfTest
from netem.calibrate import Calibration
from netem.emulate import Emulator
from netem.link import LinkProfile
from netem.profiles import Duplex
from netem.proxy import authority
from nodes.process.host_control import TimeConnection, TryLinks
from reports.record import ShapingBackend as Backend


class HostShaping(Shaping):
    """Links between the nodes of ``hosts``, each connected through an emulator beside its upstream node."""

    def __init__(
        self, hosts: Hosts, nodes: Sequence[str], links: Sequence[Duplex], seed: int, ends: Sequence[LinkEnds]
    ) -> None:
        super().__init__(nodes, links, seed, ends)
        self._nodes, self._hosts = HostNodes(hosts), hosts
        self.hosts = self._nodes
        self._pairs = [(nodes[near], nodes[far]) for near, far in ends]

    async def __aenter__(self) -> Self:
        return self

    async def test(self, names: Sequence[str], mode: SelfTest) -> list[str]:
        complaints: list[str] = []
        for name in names:
            hops = [hop for hop in self._limited if self._near[hop] == name]
            for far in dict.fromkeys(self._pairs[hop][1] for hop in hops):
                if far in self._nodes.controls:  # one may join later
                    await self._time_connection(name, far)
            ends, links = [self._pairs[hop] for hop in hops], [self._limited[hop] for hop in hops]
            place = authority(*self._nodes.addresses[name])
            complaints += await test_at(place, ends, links, mode, partial(self._measure, name))
        return complaints

    async def watch(self) -> None:
        """An emulator that ends takes its connections with it, which their nodes notice."""
        await asyncio.Event().wait()

    def _emulator_of(self, hop: int) -> Emulator:
        return RemoteEmulator(self._nodes.controls[self._near[hop]])

    def _offset_s(self, hop: int) -> float:
        return self._nodes.offset_s(self._near[hop])

    async def _measure(self, name: str, profiles: list[LinkProfile]) -> list[CalibrationRow]:
        """What the machine of ``name`` makes of ``profiles``, measured there."""
        request = TryLinks(profiles, BULK_S, MESSAGES)
        found = await self._nodes.controls[name].ask(request, list[Calibration])
        asked = [Asked("", "", Duplex(up=profile)) for profile in profiles]
        return [row_of(one, row, MESSAGES) for one, row in zip(asked, found, strict=True)]

    async def _time_connection(self, near: str, far: str) -> None:
        """Measure the network below a link, which its emulated delay comes on top of."""
        request = TimeConnection(self._nodes.addresses[far])
        self._hosts.measured[near].round_trip_s[far] = await self._nodes.controls[near].ask(request, float)


def shaped_on_hosts(
    nodes: Sequence[str], links: Sequence[Duplex], backend: Backend, seed: int, ends: Sequence[LinkEnds] | None = None
) -> Shaping:
    """As ``shaped``; where hosts are in use, each link is emulated on the host of its upstream node."""
    if (hosts := hosts_in_use()) is None:
        return shaped(nodes, links, backend, seed, ends)
    if backend not in ("none", "emulated"):
        raise ValueError(f"{backend}: links between hosts are emulated or not shaped")
    ends = list(pairwise(range(len(nodes)))) if ends is None else ends
    return HostShaping(hosts, nodes, [] if backend == "none" else links, seed, ends)
