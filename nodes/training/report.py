"""Outcome of a training job, joined from the reports of its epochs and nodes."""

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
    """What a job came to: the UE's report of each epoch and step, and what each node did.

    With several sources their reports follow one another. ``earlier`` of the epochs were run before the job was
    resumed; everything else is of what was run since.
    """

    dataset: str
    epochs: list[dict[str, float]]
    losses: list[float]
    step_s: list[float]  # by the UE's clock
    latency_s: list[float] = []  # of each test batch, from the UE's start until its result is scored
    nodes: list[NodeReport]
    earlier: int = 0
    uncalibrated: list[str] = []  # complaints of a live run's test of its links


ReportEpoch = Callable[[dict[str, float]], None]
Manage = Callable[[dict[str, float]], int | None]  # of the UE's last report: the member to serve next, None to end


def facts(worker: Segment | Source) -> Mapping[str, Any]:
    """What a node's report says of its worker."""
    segment = worker.segment if isinstance(worker, Source) else worker
    dataset = worker.dataset if isinstance(worker, Source) else ""
    return {"layers": len(segment.names), "steps": segment.steps, "dataset": dataset}


def managed(job: Job, metrics: Mapping[str, float], manage: Manage | None) -> ServeMember | Shutdown | None:
    """The answer of a network manager to the report of an epoch: a family, once trained, waits for it."""
    if not job.members or metrics["epoch"] < job.epochs:
        return None
    member = manage(dict(metrics)) if manage else None
    return Shutdown() if member is None else ServeMember(member=member)


def outcome(reports: Sequence[EpochReport], nodes: list[NodeReport]) -> TrainingOutcome:
    """The UE's reports, with what the nodes did."""
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
