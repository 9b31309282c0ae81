"""Roles and workers of a training job's nodes."""

from nodes.data.batching import client_subset
from nodes.data.images import Dataset
from nodes.errors import ModelError
from nodes.model.checkpoint import last_checkpoint
from nodes.runtime.actions import Direction, Role
from nodes.spec.job import Job, Seat
from nodes.training.migration.roles import MovingHop, MovingUe
from nodes.training.migration.segment import MovingSegment, MovingSource
from nodes.training.migration.split_control import ControlledHop, ControlledUe, TrainingControl, step_bytes
from nodes.training.relay import Relay
from nodes.training.report import Manage
from nodes.training.segment import Segment
from nodes.training.shape_segment import ShapeSegment
from nodes.training.shared_server import SharedServer
from nodes.training.source import Source
from nodes.training.ue import Ue
from nodes.wire.messages import Assign, Shutdown


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
        return SharedServer(tuple(seat.name for seat in job.seats[:-1])), segment
    if index:
        return Relay(segment.place, end=index == len(job.nodes) - 1), segment
    if data is None:
        raise ValueError("the first node needs the data")
    train, test = (client_subset(half, source, job.sources, job.seed) for half in (data.train, data.test))
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


def upstream(job: Job, seat: Seat) -> Direction:
    """How a node calls the direction in which its neighbour ``seat`` stands upstream."""
    return "up" if job.sources == 1 else seat.name


def managed(job: Job, told: dict[str, float], manage: Manage | None) -> Assign | Shutdown | None:
    """What a network manager says to a UE that has ``told`` of an epoch: a family, once trained, waits for it."""
    if not job.members or told["epoch"] < job.epochs:
        return None
    member = manage(told) if manage else None
    return Shutdown() if member is None else Assign(assignment=member, splits=job.splits)
