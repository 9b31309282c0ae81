"""How do the nodes of a job run in one process? Over in-memory channels, at full speed or in virtual time."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import torch

from netem.profiles import Duplex
from nodes.batches import share, subset
from nodes.channel import Channel, ChannelClosed, Connection, MemoryChannel, Traffic, memory_pair
from nodes.checkpoint import last_checkpoint
from nodes.data import Dataset, load
from nodes.hop import Hop
from nodes.hub import Hub
from nodes.job import Device, Job, Seat, Timing
from nodes.messages import Assign, Result, Shutdown
from nodes.models import ModelError
from nodes.moving import MovingHop, MovingUe
from nodes.moving_segment import MovingSegment, MovingSource
from nodes.node import ComputeSeam, Direction, Node, Profiled, Role, inline, on_device
from nodes.pictures import blank
from nodes.seeds import derive
from nodes.segment import Segment
from nodes.service_job import Service
from nodes.training_control import ControlledHop, ControlledUe, TrainingControl, step_bytes
from nodes.ue import Source, Ue
from nodes.virtual import ShapeSegment, linked_pair, run_virtual


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


class Outcome(msgspec.Struct, kw_only=True):
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


Say = Callable[[dict[str, float]], None]
Manage = Callable[[dict[str, float]], int | None]  # of the UE's last report: the member to serve next, None to end


def load_data(job: Job | Service) -> Dataset:
    """The data set of ``job``, as small as it asks for; "none" is of as many blank pictures. Raises DataError."""
    spec = job.data
    if spec.name == "none":
        return blank(spec.train_samples or 0, spec.test_samples or 0, job.classes, job.input_shape[-1])
    directory = None if spec.directory is None else Path(spec.directory)
    data = load(spec.name, directory, job.input_shape[-1])
    return Dataset(
        data.name,
        data.classes,
        subset(data.train, spec.train_samples, job.seed),
        subset(data.test, spec.test_samples, job.seed),
    )


def build(
    job: Job, index: int, data: Dataset | None, meta: bool = False, source: int = 0
) -> tuple[Role, Segment | Source]:
    """The role and the worker of node ``index``; training goes on from the last checkpoint that all have."""
    if job.mobile:
        return _build_moving(job, index, data)
    segment = ShapeSegment(job, index) if meta else Segment(job, index)
    start_epoch = last_checkpoint(job, segment.layers)
    if start_epoch and not segment.place.relays:
        segment.restore(start_epoch)
    if index and job.sources > 1:
        return Hub(tuple(seat.name for seat in job.seats[:-1])), segment
    if index:
        return Hop(segment.place, end=index == len(job.nodes) - 1), segment
    if data is None:
        raise ValueError("the first node needs the data")
    train, test = (share(half, source, job.sources, job.seed) for half in (data.train, data.test))
    worker = Source(segment, Dataset(data.name, data.classes, train, test), start_epoch, source)
    return Ue(worker.course, alone=len(job.nodes) == 1), worker


def _build_moving(job: Job, index: int, data: Dataset | None) -> tuple[Role, Segment | Source]:
    """As ``build``, for a job whose layers move. Raises ModelError if it had been begun before."""
    segment = MovingSegment(job, index)
    if last_checkpoint(job, segment.layers):
        raise ModelError("a job whose layers move cannot be resumed: its checkpoints name one split for all epochs")
    end, control = index == len(job.nodes) - 1, None
    if job.control is not None:
        control = TrainingControl(job.control, index, step_bytes(job), job.nodes[index - 1])
    if index:
        held = segment.place, end, job.splits, segment.layers
        return MovingHop(*held) if control is None else ControlledHop(*held, control), segment
    if data is None:
        raise ValueError("the first node needs the data")
    source = MovingSource(segment, data)
    if control is not None:
        return ControlledUe(source.course, job.splits, segment.layers, control), source
    return MovingUe(source.course, end, job.splits, segment.layers, job.moves or {}), source


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


def upstream(job: Job, seat: Seat) -> Direction:
    """How a node calls the direction in which its neighbour ``seat`` stands upstream."""
    return "up" if job.sources == 1 else seat.name


def managed(job: Job, told: dict[str, float], manage: Manage | None) -> Assign | Shutdown | None:
    """What a network manager says to a UE that has ``told`` of an epoch: a family, once trained, waits for it."""
    if not job.members or told["epoch"] < job.epochs:
        return None
    member = manage(told) if manage else None
    return Shutdown() if member is None else Assign(assignment=member, splits=job.splits)


def run_in_process(
    job: Job, data: Dataset | None = None, say: Say | None = None, manage: Manage | None = None
) -> Outcome:
    """Run ``job`` in this process, without a wire: bytes are counted as they would be sent."""
    pairs: list[tuple[MemoryChannel, MemoryChannel]]
    pairs = [memory_pair(one.name, two.name) for one, two in job.joins]
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads or before)
    try:
        return asyncio.run(_run(job, data, pairs, [inline] * len(job.seats), say=say, manage=manage))
    finally:
        torch.set_num_threads(before)


def run_in_virtual_time(job: Job, timings: list[Timing], links: list[Duplex], data: Dataset | None = None) -> Outcome:
    """Run ``job`` on a virtual clock: compute takes what ``timings`` say, messages what ``links`` do.

    One timing a node and one link between two, from the UE on. Tensors have shapes and no data: losses and
    accuracies are zero, and there is nothing to save.
    """
    if job.mobile:
        raise ValueError("timings are of parts that stay: a job whose layers move is run with data")
    job = msgspec.structs.replace(job, checkpoint=None)
    neighbours = zip(job.joins, links, strict=True)
    pairs = [
        linked_pair(one.name, two.name, link, derive(job.seed, p)) for p, ((one, two), link) in enumerate(neighbours)
    ]
    computes = [Profiled(on_device(Device(timing=timing))) for timing in timings]
    return run_virtual(_run(job, data, pairs, computes, meta=True))


async def _run(
    job: Job,
    data: Dataset | None,
    pairs: Sequence[tuple[Channel, Channel]],
    computes: Sequence[ComputeSeam],
    *,
    say: Say | None = None,
    manage: Manage | None = None,
    meta: bool = False,
) -> Outcome:
    """Run all nodes of ``job`` as tasks of this loop."""
    data = data or load_data(job)
    clock = asyncio.get_running_loop().time if meta else time.perf_counter
    reports: list[Result] = []
    nodes: list[tuple[Node, Segment | Source, dict[Direction, Channel]]] = []
    runners: list[MemoryChannel] = []
    for seat, compute in zip(job.seats, computes, strict=True):
        role, worker = build(job, seat.node, None if seat.node else data, meta, seat.source)
        channels: dict[Direction, Channel] = {}
        for (above, below), (theirs, ours) in zip(job.joins, pairs, strict=True):
            if seat == above:
                channels["down"] = theirs
            elif seat == below:
                channels[upstream(job, above)] = ours
        if not seat.node:
            to_runner: MemoryChannel
            runner: MemoryChannel
            to_runner, runner = memory_pair(seat.name, "runner")
            channels["runner"] = to_runner
            runners.append(runner)
            await runner.send(Assign(assignment=0, splits=job.splits))
        nodes.append((Node(seat.name, role, worker, compute, channels, clock), worker, channels))
    try:
        async with asyncio.TaskGroup() as group:  # the first that fails ends all
            for runner in runners:
                group.create_task(_listen(runner, reports, job, say, manage))
            await asyncio.wait([group.create_task(node.run()) for node, _, _ in nodes])
            for runner in runners:
                await runner.close()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return outcome(reports, [report(*parts) for parts in nodes])


async def _listen(runner: Channel, reports: list[Result], job: Job, say: Say | None, manage: Manage | None) -> None:
    """Collect the UE's reports until it closes, and answer them if it has a manager."""
    with suppress(ChannelClosed):
        while True:
            message = await runner.receive()
            if isinstance(message, Result):
                reports.append(message)
                if say:
                    say(message.metrics)
                if answer := managed(job, message.metrics, manage):
                    await runner.send(answer)


def outcome(reports: Sequence[Result], nodes: list[NodeReport]) -> Outcome:
    """What the UE reported, with what the nodes did."""
    reports = sorted(reports, key=lambda told: told.metrics.get("source", 0.0))
    return Outcome(
        dataset=nodes[0].dataset,
        epochs=[message.metrics for message in reports],
        losses=_joined(reports, "losses"),
        step_s=_joined(reports, "step_s"),
        latency_s=_joined(reports, "latency_s"),
        nodes=nodes,
    )


def _joined(reports: Sequence[Result], name: str) -> list[float]:
    return [value for message in reports for value in message.tensors[name].tolist()]
