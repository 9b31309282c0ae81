"""Training in one process, at full speed or in virtual time."""

import asyncio
from collections.abc import Sequence

import msgspec

from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.runtime.executors import Executor, ProfiledExecutor, inline, on_device
from nodes.runtime.local import Conductor, LocalRun, Member, Mode, run_here
from nodes.runtime.report import node_report
from nodes.runtime.virtual_time import linked_pair, run_virtual
from nodes.seeds import derive
from nodes.spec.job import Device, Job, Timing
from nodes.training.build import build
from nodes.training.report import Manage, ReportEpoch, TrainingOutcome, facts, managed, outcome
from nodes.training.source import Source
from nodes.wire.channel import Channel
from nodes.wire.messages import AnyMessage, Begin, EpochReport


def run_in_process(
    job: Job, data: Dataset | None = None, say: ReportEpoch | None = None, manage: Manage | None = None
) -> TrainingOutcome:
    """Run ``job`` in this process; bytes are counted as if sent.

    Args:
        job: What to train, and its split points.
        data: Training and test images; None reads the job's dataset.
        say: Called with the metrics of each epoch.
        manage: Network manager of a family: maps a report to the member to serve next, None to end.
    """
    return run_here(_run(job, data, Mode(), [inline] * len(job.seats), say=say, manage=manage), job.threads)


def run_in_virtual_time(
    job: Job, timings: list[Timing], links: list[Duplex], data: Dataset | None = None
) -> TrainingOutcome:
    """Run ``job`` on a virtual clock and meta tensors: losses and accuracies are zero, nothing is saved.

    Args:
        job: What to train, and its split points.
        timings: Compute times of each node, from the UE on.
        links: Link of each connection, from the UE on.
        data: Training and test images; None reads the job's dataset.
    """
    if job.mobile:
        raise ValueError("virtual time needs fixed splits: a job with moving layers must be run with data")
    if job.precision != "float32":
        raise ValueError(f"precision: virtual time computes nothing and counts bytes of float32, got {job.precision}")
    job = msgspec.structs.replace(job, checkpoint=None)
    by_ends = {
        (one.name, two.name): (link, derive(job.seed, hop))
        for hop, ((one, two), link) in enumerate(zip(job.connections, links, strict=True))
    }

    def pair(upper: str, lower: str) -> tuple[Channel, Channel]:
        return linked_pair(upper, lower, *by_ends[upper, lower])

    async def run() -> TrainingOutcome:
        mode = Mode(asyncio.get_running_loop().time, pair)
        computes = [ProfiledExecutor(on_device(Device(timing=timing))) for timing in timings]
        return await _run(job, data, mode, computes, meta=True)

    return run_virtual(run())


async def _run(
    job: Job,
    data: Dataset | None,
    mode: Mode,
    computes: Sequence[Executor],
    *,
    say: ReportEpoch | None = None,
    manage: Manage | None = None,
    meta: bool = False,
) -> TrainingOutcome:
    data = data or load_data(job)
    made = {seat.name: build(job, seat.node, None if seat.node else data, meta, seat.source) for seat in job.seats}
    segments = [worker.segments if isinstance(worker, Source) else (worker,) for _, worker in made.values()]
    for segment in (one for of_node in segments for one in of_node):
        segment.stays_in_process = True
    members = {
        name: Member(*made[name], compute, first.earlier)
        for name, compute, (first, *_) in zip(made, computes, segments, strict=True)
    }
    joins = [(upper.name, lower.name) for upper, lower in job.connections]
    run = LocalRun(members, mode, joins, job.direction_of)
    conductor = _TrainingConductor(job, say, manage)
    await run.conduct(conductor)
    reports = [node_report(run.nodes[name], **facts(worker)) for name, (_, worker) in made.items()]
    return outcome(conductor.reports, reports)


class _TrainingConductor(Conductor):
    def __init__(self, job: Job, say: ReportEpoch | None, manage: Manage | None) -> None:
        self.reports: list[EpochReport] = []
        self._job, self._say, self._manage = job, say, manage

    async def begin(self, run: LocalRun) -> None:
        for name in run.nodes:
            await run.send(name, Begin())

    async def heard(self, run: LocalRun, node: str, message: AnyMessage) -> None:
        if isinstance(message, EpochReport):
            self.reports.append(message)
            if self._say:
                self._say(message.metrics)
            if answer := managed(self._job, message.metrics, self._manage):
                await run.send(node, answer)
