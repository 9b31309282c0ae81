"""Report of what one node did, the same for every protocol and mode."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from nodes.errors import ProtocolError
from nodes.runtime.account import Sent, together
from nodes.runtime.node import Node
from nodes.wire.byte_counter import Connection
from nodes.wire.messages import Report

PART_BYTES = 1 << 18  # of a message with a part of the reports of a process, which may host thousands of nodes
MOST_BYTES = 1 << 26  # of all parts


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
    done = node.account()
    return NodeReport(
        name=node.name,
        compute_s=done.compute_s,
        total_s=done.total_s,
        serialise_s=done.serialise_s,
        wire_s=done.wire_s,
        sent=done.sent,
        connections=done.connections,
        **facts,
    )


def report_messages(reports: Sequence[NodeReport]) -> list[Report]:
    """The messages that carry the ``reports`` of a process to the runner."""
    data = msgspec.msgpack.encode(reports)
    starts = range(0, len(data), PART_BYTES)
    return [Report(part=data[start : start + PART_BYTES], last=start == starts[-1]) for start in starts]


class ReportParts:
    """Reports of a process with the nodes ``names``, joined from their messages."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names, self._data = set(names), bytearray()

    def take(self, message: Report) -> list[NodeReport] | None:
        """The reports with the last message, None before. Raises ProtocolError."""
        self._data += message.part
        if len(self._data) > MOST_BYTES:
            raise ProtocolError(f"report: more than {MOST_BYTES} bytes")
        if not message.last:
            return None
        try:
            reports = msgspec.msgpack.decode(self._data, type=list[NodeReport])
        except msgspec.DecodeError as error:
            raise ProtocolError(f"report: {error}") from None
        if odd := {one.name for one in reports} ^ self._names:
            raise ProtocolError(f"report: {sorted(odd)} on one side only, expected {sorted(self._names)}")
        return reports
