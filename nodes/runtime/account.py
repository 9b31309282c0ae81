"""Account of what a node has done: its time by phase, its frames and the bytes of its connections."""

from collections import defaultdict, deque
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from nodes.wire.byte_counter import Connection, Traffic
from nodes.wire.channel import Channel

Sent = dict[str, Traffic]  # by kind of message


class Account(msgspec.Struct, kw_only=True):
    """Times in seconds of the node's clock."""

    compute_s: float = 0.0
    total_s: float = 0.0  # from the first event to the last
    serialise_s: float = 0.0
    wire_s: float = 0.0
    sent: dict[str, Sent] = {}  # by direction
    connections: list[Connection] = []
    unreported_bytes: int = 0  # of the frames sent, not included in a report to the runner yet

    @property
    def sent_bytes(self) -> int:
        """Bytes of all frames sent."""
        return sum(
            traffic.header_bytes + traffic.payload_bytes for sent in self.sent.values() for traffic in sent.values()
        )

    def before(self, later: "Account") -> "Account":
        """The account of a node that has done this, and then ``later`` in another process."""
        return Account(
            compute_s=self.compute_s + later.compute_s,
            total_s=self.total_s + later.total_s,
            serialise_s=self.serialise_s + later.serialise_s,
            wire_s=self.wire_s + later.wire_s,
            sent={to: together([self.sent.get(to, {}), later.sent.get(to, {})]) for to in self.sent | later.sent},
            connections=_continued(self.connections, later.connections),
            unreported_bytes=self.unreported_bytes + later.unreported_bytes,
        )


def of_channels(used: Iterable[tuple[str, Channel]], compute_s: float, total_s: float) -> Account:
    """The account of a node that has ``used`` channels, each with its direction."""
    used = list(used)
    channels = [channel for _, channel in used]
    return Account(
        compute_s=compute_s,
        total_s=total_s,
        serialise_s=sum(channel.serialise_s for channel in channels),
        wire_s=sum(channel.wire_s for channel in channels),
        sent={to: together(channel.sent for way, channel in used if way == to) for to, _ in used},
        connections=[connection for channel in channels for connection in channel.connections],
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


def _continued(earlier: Iterable[Connection], later: Iterable[Connection]) -> list[Connection]:
    """Connections of which the ``later`` ones replaced the ``earlier`` ones, as if each had been opened once.

    What was written to an earlier one has arrived: a state is kept when nothing is on its way.
    """
    before: dict[tuple[str, str], deque[Connection]] = defaultdict(deque)
    for one in earlier:
        before[one.peer, one.kind].append(one)
    continued = []
    for one in later:
        if same := before[one.peer, one.kind]:
            more = same.popleft().written_bytes - one.opening_bytes
            written, acked = one.written_bytes + more, one.acked_bytes and one.acked_bytes + more
            one = replace(one, written_bytes=written, acked_bytes=acked)  # noqa: PLW2901
        continued.append(one)
    return [*(one for left in before.values() for one in left), *continued]
