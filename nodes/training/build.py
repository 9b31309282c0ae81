"""Roles and workers of a training job's nodes, and the plan of a process that hosts one."""

from functools import partial

import msgspec

from nodes.data.batching import client_subset
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.errors import ModelError
from nodes.model.checkpoint import last_checkpoint, last_step
from nodes.runtime.actions import Role
from nodes.runtime.executors import on_device
from nodes.runtime.hosting import Hosted, HostPlan
from nodes.spec.job import Job
from nodes.training.keeping.schedule import Keeping
from nodes.training.keeping.state import account_after, go_on_before
from nodes.training.migration.roles import RelayMigration, UeMigration
from nodes.training.migration.segment import MovingSegment, MovingSource
from nodes.training.migration.split_control import TrainingControl, step_bytes
from nodes.training.relay import Relay
from nodes.training.report import facts
from nodes.training.segment import Segment
from nodes.training.shape_segment import ShapeSegment
from nodes.training.shared_server import SharedServer
from nodes.training.source import Source, Tail
from nodes.training.ue import Progress, Ue
from nodes.wire.messages import Configure, Peer


def build(
    job: Job, index: int, data: Dataset | None, meta: bool = False, source: int = 0
) -> tuple[Role, Segment | Source]:
    """The role and the worker of node ``index``; training goes on from the last state that all have."""
    kind = MovingSegment if job.mobile else ShapeSegment if meta else Segment
    segment = kind(job, index)
    step, progress = last_step(job), None
    if step is not None:
        progress, segment.earlier = go_on_before(segment, step)
    start_epoch = last_checkpoint(job, segment.layers) if step is None else 0
    if start_epoch and job.mobile:
        raise ModelError("a job whose layers move cannot be resumed: its checkpoints name one split for all epochs")
    if start_epoch and not segment.place.relays:
        segment.restore(start_epoch)
    if start_epoch:
        segment.earlier = account_after(job, index, start_epoch)
    end, layers = index == len(job.nodes) - 1, segment.layers
    if job.tail is not None and job.sources > 1:
        raise ValueError(f"tail {job.tail}: several sources share no U-shaped split; give a federation's clients")
    control = TrainingControl(job.control, index, step_bytes(job), job.nodes[index - 1]) if job.control else None
    if index and job.sources > 1:
        return SharedServer(tuple(seat.name for seat in job.seats[:-1])), segment
    if index:
        moved = RelayMigration(segment.place, end, job.splits, layers, control) if job.mobile else None
        turns = None if job.tail is None else segment.place.outbound == len(job.nodes) - 1
        return Relay(segment.place, end, moved, turns, Keeping(job)), segment
    if data is None:
        raise ValueError("the first node needs the data")
    train, test = (client_subset(half, source, job.sources, job.seed) for half in (data.train, data.test))
    own = Dataset(data.name, data.classes, train, test)
    if isinstance(segment, MovingSegment):
        moving = MovingSource(segment, own)
        return Ue(moving.schedule, end, UeMigration(job.splits, layers, job.moves or {}, control)), moving
    tail = None if job.tail is None else Tail(kind(job, len(job.nodes)))
    if tail and step is not None:
        go_on_before(tail.segment, step)
    elif tail and start_epoch:
        tail.segment.restore(start_epoch)
    worker = Source(segment, own, start_epoch, source, tail=tail)
    going_on = None if progress is None else msgspec.convert(progress, Progress)
    return Ue(worker.schedule, end, keeping=Keeping(job), progress=going_on), worker


def host_plan(name: str, setup: Configure) -> HostPlan:
    """The plan of node ``name`` of the job of ``setup``."""
    job, index = setup.job, setup.index
    below = Peer(job.nodes[index + 1], *setup.downstream) if setup.downstream else None
    return HostPlan(
        names=[name],
        build=partial(_hosted, setup),
        threads=job.threads,
        payload_bytes=job.payload_bytes,
        next=below,
        previous={above.name: job.direction_of(above.name) for above, here in job.connections if here.node == index},
    )


def _hosted(setup: Configure) -> list[Hosted]:
    job, index = setup.job, setup.index
    role, worker = build(job, index, load_data(job) if index == 0 else None, source=setup.source)
    cost = on_device(job.devices[index]) if job.devices else None
    segment = worker.segment if isinstance(worker, Source) else worker
    return [Hosted(role, worker, cost, partial(facts, worker), earlier=segment.earlier)]
