"""Jobs on real processes: one for each node, joined by links that are emulated or shaped."""

from collections.abc import Callable, Mapping
from itertools import pairwise

from msgspec.structs import replace

from bench import events
from bench.live.backends import shaped
from bench.live.hosts.shaping import shaped_on_hosts
from bench.live.processes import HostPort, Nodes
from bench.live.run import LiveRun, stray
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.spec.job import Job
from nodes.training.report import Manage, ReportEpoch, TrainingOutcome, managed, outcome
from nodes.wire.messages import AnyMessage, Begin, Configure, EpochReport
from reports.record import ShapingBackend as Backend

LiveLinks = list[Duplex]
Answer = Callable[[dict[str, float]], AnyMessage | None]  # to the metrics of an epoch


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
    joined = (shaped if by_hand else shaped_on_hosts)(job.nodes, links or [], shaping, job.seed)
    if joined.hosts and job.checkpoint is not None:
        job = replace(job, checkpoint=None)  # a folder of this machine, which hosts do not share

    def answer(metrics: dict[str, float]) -> AnyMessage | None:
        if say:
            say(metrics)
        return managed(job, metrics, manage)

    run = _LiveTraining(job, joined, by_hand, answer)
    outcome = run.play(_LiveTraining.conduct, (list(pairwise(job.nodes)), links or []), shaping, self_test)
    outcome.uncalibrated = run.uncalibrated
    return outcome


class _LiveTraining(LiveRun):
    """One job at work."""

    def __init__(self, job: Job, shaping: Shaping, by_hand: Nodes | None, answer: Answer) -> None:
        super().__init__(shaping, by_hand)
        self._job, self._answer = job, answer
        self._seats = {seat.name: seat for seat in job.seats}
        self._epochs: list[EpochReport] = []

    async def conduct(self) -> TrainingOutcome:
        """Run the job to its end."""
        await self.start(list(self._seats))
        await self.until(lambda: self.pids.keys() >= self._seats.keys())
        await self._shaping.play()
        events.emit("layers", done=dict(zip(self._job.nodes, [*self._job.splits, self._job.tail], strict=True)))
        for name in reversed(self._seats):  # the UE begins at once
            await self.send(name, Begin())
        await self.until(lambda: self.reported >= self._seats.keys())
        return outcome(self._epochs, [self.reports[name] for name in self._seats])

    async def setup(self, name: str) -> Configure:
        seat, downstream = self._seats[name], None
        if seat.node + 1 < len(self._job.nodes):
            following = self._nodes.addresses[self._job.nodes[seat.node + 1]]
            downstream = await self._shaping.connect_address(seat.node, following)
        return Configure(job=self._job, index=seat.node, source=seat.source, downstream=downstream)

    async def heard(self, name: str, message: AnyMessage) -> None:
        if not isinstance(message, EpochReport):
            raise stray(name, message)
        self._epochs.append(message)
        if answer := self._answer(message.metrics):
            await self.send(name, answer)
