"""Training and inference of a chain of nodes, live, in process or in virtual time, against the unsplit model."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.learning import (
    TRAINING,
    Learning,
    check_pass,
    check_stage,
    node_names,
    weights_of,
    weights_problems,
)
from bench.experiments.common.resumable import resumable
from bench.experiments.common.trained_pictures import of_epochs
from bench.live.time_dilation import quickened, slowed
from bench.suite.experiment import Context, Measurement, Problem, Setting, absent_hosts, attempt, unused_in
from bench.suite.parameter_types import Count, CountOrZero, Stages, stage_specs
from netem.profiles import Duplex, LinkName, duplex
from netem.trace_schedule import schedules
from nodes.imports import did_you_mean
from nodes.model.chain import Chain
from nodes.model.layer_range import LayerRange, layer_range
from nodes.runtime.report import NodeReport
from nodes.spec.job import Device, Job, StageSpec, Timing
from nodes.training.in_process import run_in_process, run_in_virtual_time
from nodes.training.report import ReportEpoch, TrainingOutcome
from reports.record import CaseValue, Mode

LATENCY_QUANTILES = (0.5, 0.95)
# Parameters that only some modes use; another mode refuses them. In virtual time nothing is computed.
USED_IN: dict[str, tuple[Mode, ...]] = {
    **dict.fromkeys(("link", "backhaul", "devices"), ("live", "virtual")),
    **dict.fromkeys((*TRAINING, "threads", "weights", "unsplit"), ("live", "in-process")),
    "time_dilation": ("live",),
}


class ChainParameters(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain of UE, MEC servers and cloud, and its training.

    ``link`` joins the UE to the first server, ``backhaul`` each further pair. ``splits`` are the layers done when
    leaving each node; by default layers are divided equally. ``stage`` acts at every link, or lists one a link.
    With ``tail``, the layers done when a batch returns to the UE, the UE computes the others and keeps the labels, and
    ``stage`` lists one more, for the return. ``devices`` are the nodes that are slower than this machine; in virtual
    time every node needs its device's timing.
    """

    nodes: Count = 3
    splits: list[int] | None = None
    tail: Count | None = None
    stage: Stages = "identity"
    link: LinkName | Duplex = "unlimited"
    backhaul: LinkName | Duplex = "unlimited"
    epochs: CountOrZero = 1  # 0: inference alone
    steps: Count | None = None
    microbatches: Count = 1
    window: Count = 4
    weights: str | None = None
    devices: dict[str, Device] = msgspec.field(default_factory=dict)
    time_dilation: Annotated[float, msgspec.Meta(ge=1, le=1000)] = 1.0

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from unused_in(self, USED_IN, setting.mode)
        yield from self._mode_problems(setting.mode)
        yield from self._node_problems()
        yield from absent_hosts(("nodes",), node_names(self.nodes), setting)
        if setting.mode != "virtual":
            yield from weights_problems(self, self.weights, setting)
        if self.batch_size % self.microbatches:
            yield Problem(("microbatches",), f"{self.microbatches} do not divide a batch of {self.batch_size}")
        fits = self.splits is None or len(self.splits) == self.nodes - 1
        if not fits:
            yield Problem(("splits",), f"{self.nodes} nodes need {self.nodes - 1} splits, got {len(self.splits or ())}")
        least = (self.batch_size, f"a batch of {self.batch_size}") if self.epochs else (0, "")
        yield from self.sample_problems(setting, least)
        stages = yield from attempt(("stage",), self.stage_specs)
        layout = yield from self.checked_layout(setting, setting.mode != "virtual")
        acts_on: dict[int, int] = {}
        ending: set[int | None] = set()
        if layout is not None and fits:
            divided = "microbatches" if self.microbatches > 1 else "batch_size"
            if self.epochs and setting.mode != "virtual":
                yield from attempt((divided,), check_pass, layout, self.batch_size // self.microbatches)
            last = "splits" if self.tail is None else "tail"
            places = (yield from attempt((last,), self._places, layout)) or []
            acts_on = {place.outbound: place.stop for place in places if place.outbound is not None}
            ending = {place.inbound for place in places if place.last}
        for link, spec in enumerate(stages or ()):
            key = ("stage", link) if isinstance(self.stage, list) else ("stage",)
            done = acts_on.get(link)
            crossing = layout.shapes(done) if layout and done is not None else None
            wrong = list(attempt(key, check_stage, spec, crossing, link in ending))
            yield from wrong
            if layout is not None and done is not None and not wrong:
                yield from cut_problems(("splits",), layout, done, spec)

    def _mode_problems(self, mode: Mode) -> Iterator[Problem]:
        """Timings that virtual time needs and that are missing."""
        if mode == "virtual":
            for name in node_names(self.nodes):
                if name not in self.devices:
                    yield Problem(("devices",), f"in virtual time {name} needs a device with a timing")
                elif self.devices[name].timing is None:
                    yield Problem(("devices", name), "in virtual time a device needs a timing")

    def _node_problems(self) -> Iterator[Problem]:
        """Devices without a node, and links with unreadable traces."""
        names = node_names(self.nodes)
        for name in self.devices.keys() - set(names):
            yield Problem(("devices", name), f"no node {name!r}{did_you_mean(name, names)}")
        for key, link in (("link", self.link), ("backhaul", self.backhaul)):
            if duplex(link).time_dilation != 1:
                yield Problem((key, "time_dilation"), "a run is dilated as a whole; give it beside the links")
            yield from attempt((key, "trace"), schedules, duplex(link))

    @property
    def links(self) -> list[Duplex]:
        """The links from the UE on, without time dilation."""
        return [duplex(self.link), *[duplex(self.backhaul)] * (self.nodes - 2)][: self.nodes - 1]

    def splits_of(self, layout: Chain) -> tuple[int, ...]:
        """Layers done when leaving each node but the last."""
        if self.splits is not None:
            return tuple(self.splits)
        return tuple(round((self.tail or len(layout)) * (p + 1) / self.nodes) for p in range(self.nodes - 1))

    def stage_specs(self) -> tuple[StageSpec, ...]:
        """The stage at each cut. Raises ValueError."""
        return stage_specs(self.stage, self.nodes - 1 + (self.tail is not None))

    def _places(self, layout: Chain) -> list[LayerRange]:
        """The layers of each part. Raises ModelError if the model cannot be cut there, ValueError for the return."""
        cuts = self.splits_of(layout)
        if self.tail is not None:
            if not cuts or not cuts[0] < self.tail < len(layout):
                first = cuts[0] if cuts else len(layout)
                raise ValueError(f"got {self.tail}; the UE computes {first} of {len(layout)} layers first: give others")
            cuts = (*cuts, self.tail)
        places = [layer_range(cuts, index, len(layout)) for index in range(len(cuts) + 1)]
        for place in places:
            if place.start < place.stop:
                layout.check_part(place.start, place.stop)
        return places


class ComparedChain(ChainParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain that runs ``rounds`` times, with ``unsplit`` in turn with the unsplit model under the same load."""

    unsplit: bool = False
    rounds: Count = 1


def make_job(parameters: ChainParameters, context: Context) -> tuple[Job, int]:
    """The job of ``parameters`` and the model's number of layers. Raises ModelError, DataError or ValueError."""
    names = node_names(parameters.nodes)
    classes = parameters.classes(context)
    layout = parameters.layout(classes)
    job = parameters.job(
        context,
        layout,
        classes=classes,
        nodes=names,
        splits=parameters.splits_of(layout),
        stages=parameters.stage_specs(),
        tail=parameters.tail,
        epochs=parameters.epochs,
        steps=parameters.steps,
        microbatches=parameters.microbatches,
        window=parameters.window,
        devices=tuple(parameters.devices.get(name, Device()) for name in names) if parameters.devices else (),
        weights=weights_of(parameters.weights, str(parameters.model), layout, context.say),
    )
    return job, len(layout)


def chain(parameters: ComparedChain, context: Context) -> Iterator[Measurement]:
    """Train and test a chain, with ``unsplit`` also the unsplit model; yield everything that was counted."""
    job, layers = make_job(parameters, context)
    whole = msgspec.structs.replace(job, nodes=job.nodes[:1], splits=(), stages=(), tail=None, devices=job.devices[:1])
    split_runs, whole_runs = [], []
    for number in range(parameters.rounds):
        folder = context.scratch / str(number)
        if parameters.unsplit:
            whole_runs.append(run(whole, layers, folder / "unsplit", parameters, context))
        split_runs.append(run(job, layers, folder / "split", parameters, context))
    last = split_runs[-1]
    if last.losses:
        yield from learned(last)
        if context.mode != "virtual":  # there nothing learns
            yield of_epochs(last.epochs)
        yield Measurement("samples_per_s", rate(job, split_runs), "samples/s")
    yield from tested(last)
    yield from link_measurements(parameters, last, context)
    for node in last.nodes:
        yield from node_measurements(node)
    if last.counted:
        yield from wire_measurements(last)
    else:
        yield Measurement("resumed_after_epochs", last.earlier, "epochs")  # byte counts are incomplete
    if parameters.unsplit:
        yield from comparison(job, split_runs, whole_runs)


def run(job: Job, layers: int, folder: Path, parameters: ChainParameters, context: Context) -> TrainingOutcome:
    """Run ``job`` in the context's mode; ``folder`` keeps the state for a resumed run."""

    def say(metrics: dict[str, float]) -> None:
        nodes = "one node" if len(job.nodes) == 1 else f"{len(job.nodes)} nodes"
        context.say(
            f"{nodes}, epoch {metrics['epoch']:.0f}: loss {metrics['loss']:.3f}, "
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
    given = {name: device.timing for name, device in zip(job.nodes, job.devices, strict=False) if device.timing}
    if missing := [name for name in job.nodes if name not in given]:
        raise ValueError(f"devices: in virtual time {', '.join(missing)} needs a timing")
    return [given[name] for name in job.nodes]


def link_measurements(parameters: ChainParameters, outcome: TrainingOutcome, context: Context) -> Iterator[Measurement]:
    """The number of links out of calibration, and the time dilation of the run."""
    if context.mode != "live":
        return
    if context.shaping != "none" and any(link != Duplex() for link in parameters.links):
        yield Measurement("uncalibrated_links", len(outcome.uncalibrated), "directions")
    if parameters.time_dilation != 1:
        yield Measurement("time_dilation", parameters.time_dilation, "1")


def tested(outcome: TrainingOutcome) -> Iterator[Measurement]:
    """Throughput and latency of inference with several batches in flight."""
    samples = sum(epoch["tested_samples"] for epoch in outcome.epochs)
    seconds = sum(epoch["test_s"] for epoch in outcome.epochs)
    if seconds:
        yield Measurement("inference_samples_per_s", samples / seconds, "samples/s")
    for quantile in LATENCY_QUANTILES if len(outcome.latency_s) > 1 else ():
        latency_ms = 1e3 * float(np.quantile(outcome.latency_s, quantile))
        yield Measurement("latency_ms", latency_ms, "ms", {"quantile": quantile})


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
    yield from (Measurement("phase_s", seconds, "s", case | {"phase": phase}) for phase, seconds in phases.items())


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
