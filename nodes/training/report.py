"""Reports of the nodes of a training job, and the outcome joined from them."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from nodes.runtime.actions import Direction
from nodes.runtime.node import Node
from nodes.training.segment import Segment
from nodes.training.source import Source
from nodes.wire.channel import Channel, Connection, Traffic
from nodes.wire.messages import Result


class NodeReport(msgspec.Struct, kw_only=True):
    """What one node did. Its own clock; ``cpu_s``, ``pid``, ``resident_bytes`` of a process of its own, else 0."""

    name: str
    layers: int
    steps: int
    dataset: str = ""  # what the UE read
    pid: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0
    compute_s: float = 0.0
    overrun_s: float = 0.0  # by which work took longer than on the device that the node stands for
    serialise_s: float = 0.0
    wire_s: float = 0.0
    total_s: float = 0.0
    sent_up: dict[str, Traffic] = {}
    sent_down: dict[str, Traffic] = {}
    connections: list[Connection] = []

    @property
    def wait_s(self) -> float:
        """Time in which the node neither computed, nor serialised, nor received."""
        return max(0.0, self.total_s - self.compute_s - self.serialise_s - self.wire_s)


class TrainingOutcome(msgspec.Struct, kw_only=True):
    """What came of a job: what the UE told of each epoch and each step, and what each node did.

    With many sources what they told stands one source after the other.

    ``earlier`` of the epochs were run before the job was resumed; everything else is of what was run since.
    """

    dataset: str
    epochs: list[dict[str, float]]
    losses: list[float]
    step_s: list[float]  # by the UE's clock
    latency_s: list[float] = []  # of each test batch, from the UE's start on it until its result is scored
    nodes: list[NodeReport]
    earlier: int = 0
    uncalibrated: list[str] = []  # what a live run's test of its links had to say


ReportEpoch = Callable[[dict[str, float]], None]
Manage = Callable[[dict[str, float]], int | None]  # of the UE's last report: the member to serve next, None to end


def report(node: Node, worker: Segment | Source, channels: Mapping[Direction, Channel]) -> NodeReport:
    """What ``node`` did, as far as it knows itself."""
    segment = worker.segment if isinstance(worker, Source) else worker
    neighbours = {to: channel for to, channel in channels.items() if to != "runner"}
    return NodeReport(
        name=node.name,
        layers=len(segment.names),
        steps=segment.steps,
        dataset=worker.dataset if isinstance(worker, Source) else "",
        compute_s=node.usage.compute_s,
        total_s=node.usage.total_s,
        serialise_s=sum(channel.serialise_s for channel in neighbours.values()),
        wire_s=sum(channel.wire_s for channel in neighbours.values()),
        sent_up=_together(channel.sent for to, channel in neighbours.items() if to != "down"),
        sent_down=neighbours["down"].sent if "down" in neighbours else {},
        connections=[link for channel in neighbours.values() for link in channel.connections],
    )


def _together(sent: Iterable[dict[str, Traffic]]) -> dict[str, Traffic]:
    """What several channels have sent, by kind."""
    total: dict[str, Traffic] = {}
    for kind, traffic in itertools.chain.from_iterable(one.items() for one in sent):
        held = total.setdefault(kind, Traffic())
        held.messages += traffic.messages
        held.header_bytes += traffic.header_bytes
        held.payload_bytes += traffic.payload_bytes
    return total


def outcome(reports: Sequence[Result], nodes: list[NodeReport]) -> TrainingOutcome:
    """What the UE reported, with what the nodes did."""
    reports = sorted(reports, key=lambda told: told.metrics.get("source", 0.0))
    return TrainingOutcome(
        dataset=nodes[0].dataset,
        epochs=[message.metrics for message in reports],
        losses=_joined(reports, "losses"),
        step_s=_joined(reports, "step_s"),
        latency_s=_joined(reports, "latency_s"),
        nodes=nodes,
    )


def _joined(reports: Sequence[Result], name: str) -> list[float]:
    return [value for message in reports for value in message.tensors[name].tolist()]
