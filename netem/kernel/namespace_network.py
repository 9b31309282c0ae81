"""Network namespaces joined by shaped veth pairs, created through pyroute2 and removed on exit. Needs root.

A ``NamespaceNetwork`` is a tree of namespaces with a veth pair per edge. Each end shapes its own traffic, so both
directions are shaped. Everything is created inside the namespaces; those of a killed process are removed by
``namespace_owner.remove_orphaned``.
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
BASE = IPv4Address("10.0.0.0")  # free: the namespaces have no other interfaces
SETTINGS = {
    "ipv6/conf/default/disable_ipv6": "1",  # its background traffic would be counted
    "ipv4/tcp_no_metrics_save": "1",  # a connection starts without the metrics of earlier ones
}

Ends = tuple[int, int]


class ShapeError(RuntimeError):
    """The kernel rejects a namespace, a link or a shaper."""


class _Request(nlmsg):  # type: ignore[misc]  # pyroute2 ships no types, so its base is Any
    """RTM_NEWQDISC with options in encoded form."""

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
    """A network namespace of this process with its netlink sockets."""

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
        self.index = functools.cache(lambda interface: int(self.route.link_lookup(ifname=interface)[0]))
        self.set("lo", state="up")

    def set(self, interface: str, **attributes: Any) -> None:
        self.route.link("set", index=self.index(interface), **attributes)

    def shape(self, interface: str, kind: tc.ShaperKind, profile: LinkProfile) -> None:
        """Apply ``profile`` to what ``interface`` sends from now on; packets queued or in flight are kept."""
        if interface not in self._shaped:  # packets of one segment, not of up to 64 KiB
            self.set(interface, gso_max_segs=1)
            self._shaped.add(interface)
        request = _Request()
        request["index"], request["parent"], request["handle"] = self.index(interface), TC_H_ROOT, HANDLE
        settings = tc.options(kind, profile)
        request["attrs"] = [("TCA_KIND", kind), ("TCA_OPTIONS", settings), ("TCA_STAB", tc.size_table())]
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        tuple(self._qdiscs.nlm_request(request, RTM_NEWQDISC, flags))


class NamespaceNetwork:
    """Namespaces named ``labels``, joined by ``edges``, pairs of their indices; a context manager.

    The uplink of an edge (a, b) is from a to b. Raises ShapeError. Use it in one thread, without a running event loop:
    pyroute2 runs its own.
    """

    def __init__(self, kind: tc.ShaperKind, labels: Sequence[str], edges: Sequence[Ends]) -> None:
        self.paths: list[str] = []
        self._kind, self._labels, self._edges = kind, labels, edges
        self._namespaces: list[OwnedNamespace] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            with self._stack as stack:
                for label in self._labels:
                    self._namespaces.append(OwnedNamespace(label, stack))
                    self.paths.append(self._namespaces[-1].path)
                for edge in range(len(self._edges)):
                    self._join(edge)
                self._stack = stack.pop_all()
        except (NetlinkError, OSError) as error:
            raise ShapeError(f"cannot create network namespaces: {error} (root is needed)") from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def address(self, edge: int, end: int) -> str:
        """IP address of the first (0) or second (1) node of ``edge`` on that edge."""
        return str(BASE + 4 * edge + 1 + end)

    def shape(self, edge: int, link: Duplex) -> None:
        """Set or change the profiles of ``edge``, also while traffic flows. Raises ShapeError."""
        for end, profile in enumerate((link.up, link.down)):
            self.shape_end(edge, end, profile)

    def shape_end(self, edge: int, end: int, profile: LinkProfile) -> None:
        """Shape the traffic that the first (0) or second (1) node of ``edge`` sends. Raises ShapeError."""
        try:
            self._namespaces[self._edges[edge][end]].shape(f"link{edge}", self._kind, profile)
        except NetlinkError as error:
            raise ShapeError(f"the kernel rejects {self._kind} for {profile}: {error}") from None

    def _join(self, edge: int) -> None:
        name, ends = f"link{edge}", [self._namespaces[node] for node in self._edges[edge]]
        near, far = ends
        near.route.link("add", ifname=name, kind="veth", peer={"ifname": name, "net_ns_fd": far.path})
        macs = [node.route.link("get", index=node.index(name))[0].get("address") for node in ends]
        for end, node in enumerate(ends):
            node.set(name, state="up")
            index = node.index(name)
            node.route.addr("add", index=index, address=self.address(edge, end), prefixlen=30)
            # A static neighbour: an ARP request could be lost.
            peer = self.address(edge, 1 - end)
            node.route.neigh("add", dst=peer, lladdr=macs[1 - end], ifindex=index, state="permanent")


def supported_shapers() -> list[tc.ShaperKind]:
    """Shapers of this kernel, tried on a temporary network. Raises ShapeError if that cannot be created."""
    supported = []
    for kind in get_args(tc.ShaperKind):
        with NamespaceNetwork(kind, ["try", "try"], [(0, 1)]) as network, suppress(ShapeError):
            network.shape(0, Duplex(up=LinkProfile(rate_bps=1e6), down=LinkProfile(rate_bps=1e6)))
            supported.append(kind)
    return supported
