"""Report of what one node did, the same for every protocol and mode."""

from collections.abc import Iterable
from typing import Any

import msgspec

from nodes.runtime.node import Node
from nodes.wire.byte_counter import Connection, Traffic

Sent = dict[str, Traffic]  # by kind of message


class NodeReport(msgspec.Struct, kw_only=True):
    """What one node did, by its own clock; ``pid``, ``cpu_s`` and ``resident_bytes`` are 0 outside a process of its
    own.

    Of nodes that share a process the first one's report has the process's ``cpu_s`` and ``resident_bytes``.
    """

    name: str
    layers: int = 0
    steps: int = 0  # of its optimizers
    dataset: str = ""  # what the UE read
    updates: int = 0  # of a service node's split costs
    switches: int = 0  # of its split
    pid: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0
    compute_s: float = 0.0
    overrun_s: float = 0.0  # by which work took longer than on the device that the node stands for
    serialise_s: float = 0.0
    wire_s: float = 0.0
    total_s: float = 0.0
    sent: dict[str, Sent] = {}  # by direction
    connections: list[Connection] = []

    @property
    def sent_uplink(self) -> Sent:
        """Frames sent to the next node."""
        return self.sent.get("next", {})

    @property
    def sent_downlink(self) -> Sent:
        """Frames sent to the nodes towards the UE."""
        return together(sent for direction, sent in self.sent.items() if direction != "next")

    @property
    def wait_s(self) -> float:
        """Seconds in which the node neither computed, nor serialised, nor received."""
        return max(0.0, self.total_s - self.compute_s - self.serialise_s - self.wire_s)


def node_report(node: Node, **facts: Any) -> NodeReport:
    """What ``node`` did, as far as it knows itself; ``facts`` are the protocol's."""
    channels = [channel for _, channel in node.used]
    directions = dict.fromkeys(direction for direction, _ in node.used)
    return NodeReport(
        name=node.name,
        compute_s=node.usage.compute_s,
        total_s=node.usage.total_s,
        serialise_s=sum(channel.serialise_s for channel in channels),
        wire_s=sum(channel.wire_s for channel in channels),
        sent={to: together(channel.sent for way, channel in node.used if way == to) for to in directions},
        connections=[connection for channel in channels for connection in channel.connections],
        **facts,
    )


def together(parts: Iterable[Sent]) -> Sent:
    """Sums of ``parts`` by kind of message."""
    total: Sent = {}
    for kind, traffic in (item for sent in parts for item in sent.items()):
        so_far = total.setdefault(kind, Traffic())
        so_far.messages += traffic.messages
        so_far.header_bytes += traffic.header_bytes
        so_far.payload_bytes += traffic.payload_bytes
    return total
