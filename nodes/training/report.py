"""Outcome of a training job, from the reports of its epochs and nodes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import torch

from nodes.runtime.report import NodeReport
from nodes.spec.job import Job
from nodes.training.segment import Segment
from nodes.training.source import Source
from nodes.wire.messages import EpochReport, ServeMember, Shutdown


class TrainingOutcome(msgspec.Struct, kw_only=True):
    """Measurements of a job by epoch, step and node; with several sources, one source after the other."""

    dataset: str
    epochs: list[dict[str, float]]
    losses: list[float]
    step_s: list[float]  # by the UE's clock
    latency_s: list[float] = []  # of each test batch, from its start to its score
    nodes: list[NodeReport]
    earlier: int = 0  # of the epochs, run before the job was resumed; the other fields are of later ones
    counted: bool = True  # whether ``nodes`` are of all epochs nevertheless, times included
    uncalibrated: list[str] = []  # warnings of a live run's link self-test


ReportEpoch = Callable[[dict[str, float]], None]
Manage = Callable[[dict[str, float]], int | None]  # the UE's last report to the next member, None to end


def facts(worker: Segment | Source) -> Mapping[str, Any]:
    """Fields of a node's report about its worker."""
    segments = worker.segments if isinstance(worker, Source) else (worker,)
    dataset = worker.dataset if isinstance(worker, Source) else ""
    return {"layers": sum(len(one.names) for one in segments), "steps": segments[0].steps, "dataset": dataset}


def managed(job: Job, metrics: Mapping[str, float], manage: Manage | None) -> ServeMember | Shutdown | None:
    """Answer of the network manager to an epoch's report; None before a family is trained."""
    if not job.members or metrics["epoch"] < job.epochs:
        return None
    member = manage(dict(metrics)) if manage else None
    return Shutdown() if member is None else ServeMember(member=member)


def outcome(reports: Sequence[EpochReport], nodes: list[NodeReport]) -> TrainingOutcome:
    """Join the reports of the UEs and of the nodes."""
    reports = sorted(reports, key=lambda report: report.metrics.get("source", 0.0))
    return TrainingOutcome(
        dataset=nodes[0].dataset,
        epochs=[report.metrics for report in reports],
        losses=_joined([report.losses for report in reports]),
        step_s=_joined([report.step_s for report in reports]),
        latency_s=_joined([report.latency_s for report in reports]),
        nodes=nodes,
    )


def _joined(parts: Sequence[torch.Tensor]) -> list[float]:
    return [value for part in parts for value in part.tolist()]
