"""Jobs on real processes: one for each node, joined by links that are emulated or shaped."""

from collections.abc import Mapping
from itertools import pairwise

from msgspec.structs import replace

from bench import events
from bench.live.backends import shaped
from bench.live.faults.restarts import restarts_in_use
from bench.live.hosts.in_use import hosts_in_use
from bench.live.hosts.shaping import shaped_on_hosts
from bench.live.processes import HostPort, Nodes
from bench.live.run import LiveRun, stray
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.model.checkpoint import last_step
from nodes.spec.job import Job, KeepSpec
from nodes.spec.modules import modules_of
from nodes.training.report import Manage, ReportEpoch, TrainingOutcome, managed, outcome
from nodes.wire.messages import AnyMessage, Begin, Configure, EpochReport
from reports.record import ShapingBackend as Backend

LiveLinks = list[Duplex]


def run_live(
    job: Job,
    links: LiveLinks | None = None,
    say: ReportEpoch | None = None,
    *,
    manage: Manage | None = None,
    addresses: Mapping[str, HostPort] | None = None,
    token: str | None = None,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> TrainingOutcome:
    """Run ``job`` on processes of its own. Leaves no process behind.

    Args:
        job: What to train, and where it is cut.
        links: One between two nodes, from the UE on (None: unlimited); limited ones are emulated on this machine.
        say: Called with the metrics of each epoch.
        manage: Network manager of a family: the member to serve after a report, None to end.
        addresses: Of nodes started by hand, by name.
        token: Shared with nodes started by hand.
        shaping: Backend of the links; with "none" all are unlimited.
        self_test: Whether links that are off before the nodes start are refused, or kept in the outcome.

    Raises:
        ValueError: The arguments do not fit each other.
        RunError: A node ended, fell silent or failed; names it.
    """
    if (addresses is None) != (token is None):
        raise ValueError("addresses and token: nodes started by hand need both, others neither")
    if addresses is not None and shaping not in ("none", "emulated"):
        raise ValueError(f"{shaping}: nodes started by hand live in no namespace that could be shaped")
    if job.sources > 1 and shaping not in ("none", "emulated"):
        raise ValueError(f"{shaping}: the link of several sources is emulated or not shaped")
    by_hand = None if addresses is None else Nodes(dict(addresses), token)
    shape, ends = (shaped if by_hand else shaped_on_hosts), list(pairwise(job.nodes))
    restarts, uncalibrated = restarts_in_use(), list[str]()
    with restarts.kept() as folder:
        if by_hand is None and hosts_in_use():  # their disks are not this machine's
            job = replace(job, checkpoint=None)
        elif folder is not None and job.keepable:
            job = replace(job, keep=KeepSpec(folder=str(folder)))

        epochs = _Epochs(job, say, manage)

        def attempt() -> TrainingOutcome:
            run = _LiveTraining(job, shape(job.nodes, links or [], shaping, job.seed), by_hand, epochs)
            try:
                return run.play(_LiveTraining.conduct, (ends, links or []), shaping, self_test)
            finally:
                uncalibrated.extend(run.uncalibrated)

        outcome = restarts.run(attempt, lambda: _from_step(last_step(job)))
    outcome.uncalibrated = uncalibrated
    return outcome


def _from_step(step: int | None) -> str:
    return "from the beginning" if step is None else f"from training step {step}"


class _Epochs:
    """Reports of epochs, each once although nodes that start again may repeat it, and the runner's answers."""

    def __init__(self, job: Job, say: ReportEpoch | None, manage: Manage | None) -> None:
        self.reports: list[EpochReport] = []
        self._job, self._say, self._manage = job, say, manage
        self._answers: dict[tuple[float, float], AnyMessage | None] = {}

    def answer(self, report: EpochReport) -> AnyMessage | None:
        """Take ``report``, unless it is known; what the UE is told."""
        key = report.metrics.get("source", 0.0), report.metrics["epoch"]
        if key not in self._answers:
            self.reports.append(report)
            if self._say:
                self._say(report.metrics)
            self._answers[key] = managed(self._job, report.metrics, self._manage)
        return self._answers[key]


class _LiveTraining(LiveRun):
    """One job at work."""

    def __init__(self, job: Job, shaping: Shaping, by_hand: Nodes | None, epochs: _Epochs) -> None:
        super().__init__(shaping, by_hand, modules_of(job))
        self._job, self._epochs = job, epochs
        self._seats = {seat.name: seat for seat in job.seats}

    async def conduct(self) -> TrainingOutcome:
        """Run the job to its end."""
        await self.start(list(self._seats))
        await self.until(lambda: self.pids.keys() >= self._seats.keys())
        await self._shaping.play()
        if events.watched():
            done = dict(zip(self._job.nodes, [*self._job.splits, self._job.tail], strict=True))
            events.emit("layers", done=done, total=_layers(self._job))
        for name in reversed(self._seats):  # the UE begins at once
            await self.send(name, Begin())
        await self.until(lambda: self.reported >= self._seats.keys())
        return outcome(self._epochs.reports, [self.reports[name] for name in self._seats])

    async def setup(self, name: str) -> Configure:
        seat, downstream = self._seats[name], None
        if seat.node + 1 < len(self._job.nodes):
            following = self._nodes.addresses[self._job.nodes[seat.node + 1]]
            downstream = await self._shaping.connect_address(seat.node, following)
        return Configure(job=self._job, index=seat.node, source=seat.source, downstream=downstream)

    async def heard(self, name: str, message: AnyMessage) -> None:
        if not isinstance(message, EpochReport):
            raise stray(name, message)
        if answer := self._epochs.answer(message):
            await self.send(name, answer)


def _layers(job: Job) -> int:
    """The number of layers of the job's model."""
    from nodes.model.factory import outline  # noqa: PLC0415  (imports torch)

    return len(outline(job.model, job.classes, job.input_shape, dtype=job.input_type))
