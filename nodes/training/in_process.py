"""How do the nodes of a job run in one process? Over in-memory channels, at full speed or in virtual time."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import torch

from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.runtime.actions import Direction
from nodes.runtime.executors import Executor, ProfiledExecutor, on_device
from nodes.runtime.node import Node, inline
from nodes.runtime.virtual_time import linked_pair, run_virtual
from nodes.seeds import derive
from nodes.spec.job import Device, Job, Timing
from nodes.training.build import build, managed, upstream
from nodes.training.report import Manage, ReportEpoch, TrainingOutcome, outcome, report
from nodes.training.segment import Segment
from nodes.training.source import Source
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.messages import Assign, Result


def run_in_process(
    job: Job, data: Dataset | None = None, say: ReportEpoch | None = None, manage: Manage | None = None
) -> TrainingOutcome:
    """Run ``job`` in this process, without a wire: bytes are counted as they would be sent."""
    pairs: list[tuple[MemoryChannel, MemoryChannel]]
    pairs = [memory_pair(one.name, two.name) for one, two in job.connections]
    before = torch.get_num_threads()
    torch.set_num_threads(job.threads or before)
    try:
        return asyncio.run(_run(job, data, pairs, [inline] * len(job.seats), say=say, manage=manage))
    finally:
        torch.set_num_threads(before)


def run_in_virtual_time(
    job: Job, timings: list[Timing], links: list[Duplex], data: Dataset | None = None
) -> TrainingOutcome:
    """Run ``job`` on a virtual clock: compute takes what ``timings`` say, messages what ``links`` do.

    One timing a node and one link between two, from the UE on. Tensors have shapes and no data: losses and
    accuracies are zero, and there is nothing to save.
    """
    if job.mobile:
        raise ValueError("timings are of parts that stay: a job whose layers move is run with data")
    job = msgspec.structs.replace(job, checkpoint=None)
    neighbours = zip(job.connections, links, strict=True)
    pairs = [
        linked_pair(one.name, two.name, link, derive(job.seed, p)) for p, ((one, two), link) in enumerate(neighbours)
    ]
    computes = [ProfiledExecutor(on_device(Device(timing=timing))) for timing in timings]
    return run_virtual(_run(job, data, pairs, computes, meta=True))


async def _run(
    job: Job,
    data: Dataset | None,
    pairs: Sequence[tuple[Channel, Channel]],
    computes: Sequence[Executor],
    *,
    say: ReportEpoch | None = None,
    manage: Manage | None = None,
    meta: bool = False,
) -> TrainingOutcome:
    """Run all nodes of ``job`` as tasks of this loop."""
    data = data or load_data(job)
    clock = asyncio.get_running_loop().time if meta else time.perf_counter
    reports: list[Result] = []
    nodes: list[tuple[Node, Segment | Source, dict[Direction, Channel]]] = []
    runners: list[MemoryChannel] = []
    for seat, compute in zip(job.seats, computes, strict=True):
        role, worker = build(job, seat.node, None if seat.node else data, meta, seat.source)
        channels: dict[Direction, Channel] = {}
        for (above, below), (theirs, ours) in zip(job.connections, pairs, strict=True):
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


async def _listen(
    runner: Channel, reports: list[Result], job: Job, say: ReportEpoch | None, manage: Manage | None
) -> None:
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
