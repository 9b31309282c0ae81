"""How can a slow host stand in for a fast one? A run in which time goes k times as slowly, told in its own time.

Rates are divided by k, delays and compute multiplied by it, and what was measured is divided by k again: a device k
times as fast as this machine can be played, and what the machine itself adds to each hop weighs k times less. CPU
seconds and counts stay as they are.
"""

from collections.abc import Sequence

import msgspec

from nodes.runtime.report import NodeReport
from nodes.spec.job import Device, Job, Timing
from nodes.training.report import TrainingOutcome

PHASES = ("compute_s", "overrun_s", "serialise_s", "wire_s", "total_s")
SPANS = ("train_s", "test_s")  # of an epoch


def slowed(job: Job, k: float) -> Job:
    """``job`` whose devices take ``k`` times as long."""
    devices: Sequence[Device] = job.devices or (Device(),) * len(job.nodes)
    return job if k == 1 else msgspec.structs.replace(job, devices=tuple(_slowed(device, k) for device in devices))


def _slowed(device: Device, k: float) -> Device:
    if device.timing is None:
        return Device(slowdown=k * device.slowdown)
    return Device(timing=Timing(forward_s=k * device.timing.forward_s, backward_s=k * device.timing.backward_s))


def quickened(outcome: TrainingOutcome, k: float) -> TrainingOutcome:
    """``outcome`` of a run that went ``k`` times as slowly, in the time that it stands for."""
    return (
        outcome
        if k == 1
        else msgspec.structs.replace(
            outcome,
            epochs=[epoch | {name: epoch[name] / k for name in SPANS} for epoch in outcome.epochs],
            step_s=[seconds / k for seconds in outcome.step_s],
            latency_s=[seconds / k for seconds in outcome.latency_s],
            nodes=[_quickened(node, k) for node in outcome.nodes],
        )
    )


def _quickened(node: NodeReport, k: float) -> NodeReport:
    return msgspec.structs.replace(node, **{name: getattr(node, name) / k for name in PHASES})
