"""Training and inference of a chain of nodes, live, in process or in virtual time, against the unsplit model."""

import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from bench.experiments.common.chain_job import ChainParameters, make_job
from bench.experiments.common.resumable import resumable
from bench.live.time_dilation import quickened, slowed
from bench.suite.experiment import Context, Measurement
from netem.profiles import Duplex
from nodes.runtime.report import NodeReport
from nodes.spec.job import Job, Timing
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.training.report import ReportEpoch, TrainingOutcome
from reports.record import CaseValue

LATENCY_QUANTILES = (0.5, 0.95)


def chain(parameters: ChainParameters, context: Context) -> Iterator[Measurement]:
    """Train and test a chain, with ``unsplit`` also the unsplit model; yield everything that was counted."""
    job, layers = make_job(parameters, context)
    whole = msgspec.structs.replace(job, nodes=job.nodes[:1], splits=(), stages=(), devices=job.devices[:1])
    split_runs, whole_runs = [], []
    for number in range(parameters.rounds):
        folder = context.scratch / str(number)
        if parameters.unsplit:
            whole_runs.append(run(whole, layers, folder / "unsplit", parameters, context))
        split_runs.append(run(job, layers, folder / "split", parameters, context))
    last = split_runs[-1]
    if last.losses:
        yield from learned(last)
        yield Measurement("samples_per_s", rate(job, split_runs), "samples/s")
    yield from tested(last)
    yield from link_measurements(parameters, last, context)
    for node in last.nodes:
        yield from node_measurements(node)
    if last.earlier:
        yield Measurement("resumed_after_epochs", last.earlier, "epochs")  # byte counts are incomplete
    else:
        yield from wire_measurements(last)
    if parameters.unsplit:
        yield from comparison(job, split_runs, whole_runs)


def run(job: Job, layers: int, folder: Path, parameters: ChainParameters, context: Context) -> TrainingOutcome:
    """Run ``job`` in the context's mode: live, in this process or in virtual time.

    ``folder`` keeps the state for a resumed run.
    """

    def say(metrics: dict[str, float]) -> None:
        context.say(
            f"{len(job.nodes)} nodes, epoch {metrics['epoch']:.0f}: loss {metrics['loss']:.3f}, "
            f"test accuracy {metrics['test_accuracy']:.3f}, {metrics['sent_bytes'] / 1e6:.1f} MB sent by the UE in it"
        )

    def start(job: Job, say: ReportEpoch) -> TrainingOutcome:
        if context.mode == "in-process":
            return run_in_process(job, say=say)
        links = parameters.links[: len(job.nodes) - 1]
        if context.mode == "virtual":
            return run_in_virtual_time(job, timings(job), links)
        from bench.live.training import run_live  # noqa: PLC0415  (aiohttp and uvloop, which a run in process does without)

        k = parameters.time_dilation
        slow = [link.dilated(k) for link in links]
        outcome = run_live(slowed(job, k), slow, say, shaping=context.shaping, self_test=context.self_test)
        for complaint in outcome.uncalibrated:
            context.say(f"not calibrated: {complaint}")
        return quickened(outcome, k)

    return resumable(job, layers, folder, start, say)


def learned(outcome: TrainingOutcome) -> Iterator[Measurement]:
    """Loss and accuracies at the end of training."""
    if outcome.losses:
        yield Measurement("final_loss_nats", outcome.losses[-1], "nats")
        yield Measurement("train_accuracy", outcome.epochs[-1]["train_accuracy"], "fraction")
    yield Measurement("test_accuracy", outcome.epochs[-1]["test_accuracy"], "fraction")


def timings(job: Job) -> list[Timing]:
    """Seconds of a batch at each node in virtual time. Raises ValueError if a device has no timing."""
    given = {name: device.timing for name, device in zip(job.nodes, job.devices, strict=False)}
    if missing := [name for name in job.nodes if given.get(name) is None]:
        raise ValueError(f"devices: in virtual time {', '.join(missing)} needs a timing")
    return [given[name] or Timing() for name in job.nodes]


def link_measurements(parameters: ChainParameters, outcome: TrainingOutcome, context: Context) -> Iterator[Measurement]:
    """The number of links out of calibration, and the time dilation of the run."""
    if context.mode == "live" and context.shaping != "none" and any(link != Duplex() for link in parameters.links):
        yield Measurement("uncalibrated_links", len(outcome.uncalibrated), "directions")
    if context.mode == "live" and parameters.time_dilation != 1:
        yield Measurement("time_dilation", parameters.time_dilation, "1")


def tested(outcome: TrainingOutcome) -> Iterator[Measurement]:
    """Throughput and latency of inference with several batches in flight."""
    samples = sum(epoch["tested_samples"] for epoch in outcome.epochs)
    seconds = sum(epoch["test_s"] for epoch in outcome.epochs)
    if seconds:
        yield Measurement("inference_samples_per_s", samples / seconds, "samples/s")
    for quantile in LATENCY_QUANTILES if len(outcome.latency_s) > 1 else ():
        yield Measurement(
            "latency_ms", 1e3 * float(np.quantile(outcome.latency_s, quantile)), "ms", {"quantile": quantile}
        )


def rate(job: Job, outcomes: list[TrainingOutcome]) -> float:
    """Training samples per second by the median step, without the first half of each run as warm-up."""
    steps = [step for outcome in outcomes for step in outcome.step_s[len(outcome.step_s) // 2 :]]
    return job.batch_size / statistics.median(steps)


def comparison(job: Job, split_runs: list[TrainingOutcome], whole_runs: list[TrainingOutcome]) -> Iterator[Measurement]:
    """Differences between the chain and the unsplit model."""
    split, whole = split_runs[-1], whole_runs[-1]
    steps = min(len(split.losses), len(whole.losses))  # a resumed run has not all
    distances = [abs(one - other) for one, other in zip(split.losses[-steps:], whole.losses[-steps:], strict=True)]
    accuracies = [outcome.epochs[-1]["test_accuracy"] for outcome in (split, whole)]
    yield Measurement("unsplit_test_accuracy", accuracies[1], "fraction")
    yield Measurement("accuracy_difference", accuracies[0] - accuracies[1], "fraction")
    yield Measurement("largest_loss_difference_nats", max(distances), "nats")
    yield Measurement("unsplit_samples_per_s", rate(job, whole_runs), "samples/s")
    ratios = [rate(job, [one]) / rate(job, [other]) for one, other in zip(split_runs, whole_runs, strict=True)]
    yield Measurement("throughput_ratio", statistics.median(ratios), "1")


def node_measurements(node: NodeReport) -> Iterator[Measurement]:
    """A node's layers, steps and process, and its time by phase."""
    case = {"node": node.name}
    yield Measurement("layers", node.layers, "layers", case)
    yield Measurement("steps", node.steps, "steps", case)
    if node.overrun_s:
        yield Measurement("overrun_s", node.overrun_s, "s", case)
    if node.pid:
        yield Measurement("pid", node.pid, "", case)
        yield Measurement("cpu_s", node.cpu_s, "s", case)
    phases = {"compute": node.compute_s, "serialise": node.serialise_s, "wire": node.wire_s, "wait": node.wait_s}
    for phase, seconds in phases.items():
        yield Measurement("phase_s", seconds, "s", case | {"phase": phase})


def wire_measurements(outcome: TrainingOutcome) -> Iterator[Measurement]:
    """Bytes and messages by link, direction and kind; live also by connection, as the kernel counted them."""
    hops = {node.name: index for index, node in enumerate(outcome.nodes)}
    for node in outcome.nodes:
        for direction, sent in (("uplink", node.sent_uplink), ("downlink", node.sent_downlink)):
            hop = hops[node.name] + (direction == "uplink")
            for kind, traffic in sent.items():
                case: dict[str, CaseValue] = {"hop": hop, "direction": direction, "kind": kind}
                yield Measurement("messages", traffic.messages, "messages", case)
                yield Measurement("header_bytes", traffic.header_bytes, "B", case)
                yield Measurement("payload_bytes", traffic.payload_bytes, "B", case)
        for link in node.connections:
            case = {"node": node.name, "peer": link.peer, "connection": link.kind}
            yield Measurement("transport_bytes", link.written_bytes, "B", case)
            yield Measurement("unacknowledged_bytes", link.written_bytes - link.acked_bytes, "B", case)
