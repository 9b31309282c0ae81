"""Time dilation: runs slowed by a factor k, so that a slow host can stand in for a fast one.

Rates are divided by k, delays and compute times multiplied by k, and measured times divided by k. Devices may be k
times as fast as this machine, whose own overhead counts k times less. CPU seconds and counts are unchanged.
"""

from collections.abc import Sequence

import msgspec

from nodes.spec.job import Device, Job
from nodes.training.report import TrainingOutcome

PHASES = ("compute_s", "overrun_s", "serialise_s", "wire_s", "total_s")
SPANS = ("train_s", "test_s")  # of an epoch


def slowed(job: Job, k: float) -> Job:
    """``job`` with devices ``k`` times as slow."""
    devices: Sequence[Device] = job.devices or (Device(),) * len(job.nodes)
    return job if k == 1 else msgspec.structs.replace(job, devices=tuple(_slowed(device, k) for device in devices))


def _slowed(device: Device, k: float) -> Device:
    return Device(slowdown=k * device.slowdown) if device.timing is None else Device(timing=device.timing.times(k))


def quickened(outcome: TrainingOutcome, k: float) -> TrainingOutcome:
    """``outcome`` of a run slowed by ``k``, in undilated time."""
    if k == 1:
        return outcome
    return msgspec.structs.replace(
        outcome,
        epochs=[epoch | {name: epoch[name] / k for name in SPANS} for epoch in outcome.epochs],
        step_s=[seconds / k for seconds in outcome.step_s],
        latency_s=[seconds / k for seconds in outcome.latency_s],
        nodes=[
            msgspec.structs.replace(node, **{name: getattr(node, name) / k for name in PHASES})
            for node in outcome.nodes
        ],
    )
