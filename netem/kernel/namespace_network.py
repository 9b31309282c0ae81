"""How do veth pairs between network namespaces become links of given profiles? Through pyroute2; always undone.

A ``NamespaceNetwork`` is a tree of namespaces, so a chain too, with a veth pair for each edge. Each end shapes what it
sends, both directions. What it makes lives in its namespaces alone, whose names say whose they are; they go
with the block; what a process that was killed left, ``namespace_owner.remove_orphaned`` removes. Needs root.
"""

import functools
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self, get_args

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nlsocket import NetlinkSocket
from pyroute2.netlink.rtnl import RTM_NEWQDISC, TC_H_ROOT

from netem.kernel import namespace_owner, tc
from netem.kernel.namespace import in_namespace
from netem.link import LinkProfile
from netem.profiles import Duplex

NETLINK_ROUTE = 0
HANDLE = 0x10000  # 1:
BASE = IPv4Address("10.0.0.0")  # nobody else is in our namespaces
SETTINGS = {
    "ipv6/conf/default/disable_ipv6": "1",  # its chatter would be counted
    "ipv4/tcp_no_metrics_save": "1",  # a connection knows nothing of what befell earlier ones
}

Ends = tuple[int, int]


class ShapeError(RuntimeError):
    """The kernel refuses what was asked of it; says what."""


class _Request(nlmsg):  # type: ignore[misc]  # pyroute2 ships no types, so its base is Any
    """RTM_NEWQDISC with options that are encoded already."""

    fields = (
        ("family", "B"),
        ("pad1", "B"),
        ("pad2", "H"),
        ("index", "i"),
        ("handle", "I"),
        ("parent", "I"),
        ("info", "I"),
    )
    nla_map = ((1, "TCA_KIND", "asciiz"), (tc.OPTIONS, "TCA_OPTIONS", "cdata"), (tc.STAB, "TCA_STAB", "cdata"))


class OwnedNamespace:
    """A namespace of ours, and netlink in it."""

    def __init__(self, label: str, stack: ExitStack) -> None:
        self.path = namespace_owner.create(label)
        stack.callback(namespace_owner.remove, self.path)
        with in_namespace(self.path):
            self.route = stack.enter_context(IPRoute())
            self._qdiscs = stack.enter_context(NetlinkSocket(NETLINK_ROUTE))
            for name, value in SETTINGS.items():
                with suppress(OSError):  # no IPv6 in this kernel, or /proc/sys is read-only
                    Path("/proc/sys/net", name).write_text(value)
        self._shaped: set[str] = set()
        self.index = functools.cache(self._index)
        self.set("lo", state="up")

    def _index(self, interface: str) -> int:
        """The number of ``interface``."""
        return int(self.route.link_lookup(ifname=interface)[0])

    def set(self, interface: str, **what: Any) -> None:
        """Change ``interface``."""
        self.route.link("set", index=self.index(interface), **what)

    def shape(self, interface: str, kind: tc.ShaperKind, profile: LinkProfile) -> None:
        """Have ``interface`` send as ``profile`` says, from now on; what waits or travels there stays."""
        if interface not in self._shaped:  # a packet is a segment from now on, not up to 64 KiB that TCP left whole
            self.set(interface, gso_max_segs=1)
            self._shaped.add(interface)
        request = _Request()
        request["index"], request["parent"], request["handle"] = self.index(interface), TC_H_ROOT, HANDLE
        request["attrs"] = [
            ("TCA_KIND", kind),
            ("TCA_OPTIONS", tc.options(kind, profile)),
            ("TCA_STAB", tc.size_table()),
        ]
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        tuple(self._qdiscs.nlm_request(request, RTM_NEWQDISC, flags))


class NamespaceNetwork:
    """Namespaces named ``labels``, joined by ``edges``, pairs of their numbers; a context manager.

    Of an edge (a, b) "up" is what a sends to b, as from the UE on. Raises ShapeError. Not for several threads,
    nor in a thread whose event loop runs: pyroute2 runs one of its own.
    """

    def __init__(self, kind: tc.ShaperKind, labels: Sequence[str], edges: Sequence[Ends]) -> None:
        self.paths: list[str] = []
        self._kind, self._labels, self._edges = kind, labels, edges
        self._places: list[OwnedNamespace] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with self._stack as stack:
                for label in self._labels:
                    self._places.append(OwnedNamespace(label, stack))
                    self.paths.append(self._places[-1].path)
                for number in range(len(self._edges)):
                    self._join(number)
                self._stack = stack.pop_all()
        except (NetlinkError, OSError) as error:
            raise ShapeError(f"the kernel does not let us make a network: {error}") from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def address(self, edge: int, end: int) -> str:
        """The IP address of the first (0) or second (1) node of ``edge`` on it."""
        return str(BASE + 4 * edge + 1 + end)

    def shape(self, edge: int, link: Duplex) -> None:
        """Give ``edge`` these profiles, or new ones while traffic flows. Raises ShapeError."""
        for end, profile in enumerate((link.up, link.down)):
            self.shape_end(edge, end, profile)

    def shape_end(self, edge: int, end: int, profile: LinkProfile) -> None:
        """Shape what the first (0) or second (1) node of ``edge`` sends. Raises ShapeError."""
        try:
            self._places[self._edges[edge][end]].shape(f"link{edge}", self._kind, profile)
        except NetlinkError as error:
            raise ShapeError(f"the kernel does not take {self._kind} for {profile}: {error}") from None

    def _join(self, number: int) -> None:
        """Make the veth pair of an edge, each end in its namespace from the start."""
        name, (near, far) = f"link{number}", [self._places[place] for place in self._edges[number]]
        near.route.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_fd": far.path})
        macs = [place.route.link("get", index=place.index(name))[0].get("address") for place in (near, far)]
        for end, place in enumerate((near, far)):
            place.set(name, state="up")
            index = place.index(name)
            place.route.addr("add", index=index, address=self.address(number, end), prefixlen=30)
            # Known beforehand, for a question of ARP could be lost.
            place.route.neigh(
                "add", dst=self.address(number, 1 - end), lladdr=macs[1 - end], ifindex=index, state="permanent"
            )


def supported_shapers() -> list[tc.ShaperKind]:
    """What this kernel can shape links by, tried on a network of its own. Raises ShapeError if it lets us make none."""
    found = []
    for kind in get_args(tc.ShaperKind):
        with NamespaceNetwork(kind, ["try", "try"], [(0, 1)]) as network, suppress(ShapeError):
            network.shape(0, Duplex(up=LinkProfile(rate_bps=1e6), down=LinkProfile(rate_bps=1e6)))
            found.append(kind)
    return found
