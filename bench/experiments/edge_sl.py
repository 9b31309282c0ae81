"""Which way of training with many clients is the better: how accurate, how fast, with how many bytes, on whose work?

Split Learning in 6G Edge Networks. One experiment serves all: ``course`` lets a federation train, in this process, on
a virtual clock, on which networks learn as well while compute and links take the time that is said, or live.
"""

import functools
import math
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.experiment import Context, Measurement
from bench.experiments.learning import ANY_CLASSES, Count, Learning, largest_payload
from bench.experiments.training import boundary_after
from bench.fields import ModelName, StageChoice, check_stage, stage_specs
from bench.strict_yaml import Key
from netem.profiles import Duplex, LinkName, duplex
from nodes.algorithms.parallel import SCHEMES, SchemeName
from nodes.batches import subset
from nodes.data import Dataset
from nodes.federation import FADE, Absence, Federation, Move, Partition, Statistics
from nodes.federation_run import FederationOutcome, RoundReport, Say, run_in_process, run_in_virtual_time
from nodes.job import Job, StageSpec, Timing
from nodes.models import Chain, ModelError, build_model
from nodes.segment import ProtocolError
from nodes.shape_work import check_joint
from nodes.stage import build_stage
from reports.record import CaseValue, Mode, Shaping

# What is made use of in some modes alone; given in another it is refused. Compute takes its own time in this process.
USED_IN: dict[str, tuple[Mode, ...]] = {
    "links": ("live", "virtual"),
    "backhaul": ("live", "virtual"),
    "slowdowns": ("live", "virtual"),
    "times_s": ("live", "virtual"),
    "client_flops": ("virtual",),
    "server_flops": ("virtual",),
    "learn": ("virtual",),
    "clients_per_process": ("live",),
}
BACKWARD = 2.0  # a backward pass takes twice the operations of a forward pass, as is usual for convolutions
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scheme with what is its own.

    EPSL's share ``phi`` of averaged positions and the ``statistics`` by which batch norm goes in their pass;
    asynchronous PSL's bound of ``staleness`` and its ``fade``.
    """

    scheme: SchemeName = "psl"
    phi: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    statistics: Statistics = "running"
    staleness: int | None = None
    fade: float = FADE


class Clients(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clients`` that train ``model``, cut after module ``cut`` or after so many layers, by ``method``.

    On a virtual clock a client computes ``client_flops`` operations a second, divided by its one of ``slowdowns``, an
    edge server ``server_flops``. ``links`` are the clients', each taken again where there are more clients;
    ``backhaul`` joins an edge server to the cloud. Live, so many clients share a process.
    """

    model: ModelName = ModelName("nodes.networks:small_cnn")
    cut: str | Count = 5
    method: Method = Method()
    stage: StageChoice = "identity"
    clients: Count = 5
    clients_per_process: Count = 1
    edges: Count = 1
    rounds: Count = 1
    local_steps: Count | None = None
    partition: Partition = Partition()
    cloud_every: Count = 1
    test_every: Count = 1
    slowdowns: tuple[float, ...] = (1.0,)
    absences: tuple[Absence, ...] = ()
    moves: tuple[Move, ...] = ()
    links: Annotated[tuple[LinkName | Duplex, ...], msgspec.Meta(min_length=1)] = ("unlimited",)
    backhaul: LinkName | Duplex = "unlimited"
    client_flops: Positive = 2e9
    server_flops: Positive = 1e11
    batch_size: Count = 32
    learn: bool = True  # on a virtual clock; without, shapes alone cross: what and when is the same
    times_s: tuple[Positive, ...] = ()  # at which a clock's run tells how accurate the network is by then

    def check(self) -> Iterator[tuple[Key, str]]:
        """(key, message) of what does not fit together; reads no data, runs nothing."""
        try:
            layout = self.layout()
        except ModelError as error:
            yield ("model",), str(error)
            return
        try:
            split_point = self.split_point(layout)
        except ValueError as error:
            yield ("cut",), str(error)
            return
        try:
            check_stage(self.stage_spec.name)
            if split_point < len(layout):
                build_stage(self.stage_spec, layout.shapes(split_point))
        except ValueError as error:
            yield ("stage",), str(error)
        else:
            joint = SCHEMES[self.method.scheme].server == "joint" and self.clients > 1
            if joint and (why := _unjoinable(msgspec.json.encode(_minimal(self, layout)), self.method.phi)):
                yield ("cut" if self.stage == "identity" else "stage",), why
        try:
            self.federation(Job(**_minimal(self, layout)))
        except ValueError as error:
            first, _, _ = str(error).partition(":")
            yield (first if first in self.__struct_fields__ else "method",), str(error)
        for name, (least, why) in self._least_samples.items():
            if (given := getattr(self, name)) is not None and given < least:
                yield (name,), f"{given} are too few: {least} at least, {why}"

    def check_dataset(self, dataset: str) -> Iterator[tuple[Key, str]]:
        """(key, message) if there are no pictures and it is not said how many blank ones to take."""
        for name, (least, why) in self._least_samples.items() if dataset == "none" else ():
            if getattr(self, name) is None:
                yield (name,), f"without a data set say how many blank pictures: {least} at least, {why}"

    def unused(self) -> Iterator[tuple[Key, str]]:
        """(key, message) of what is of use with several edge servers alone, if there is one."""
        for name in ("backhaul", "cloud_every") if self.edges == 1 else ():
            yield (name,), "used with several edge servers alone, and there is one (edges)"

    @property
    def _least_samples(self) -> dict[str, tuple[int, str]]:
        """How many pictures are needed, and for what."""
        each = f"for each of {self.clients} clients"
        return {
            "train_samples": (self.clients * self.batch_size, f"a batch of {self.batch_size} {each}"),
            "test_samples": (self.clients, f"one {each}"),
        }

    def check_mode(self, mode: Mode) -> Iterator[tuple[Key, str]]:
        """(key, message) of what is given and ``mode`` makes no use of."""
        for field in msgspec.structs.fields(self):
            modes = USED_IN.get(field.name, (mode,))
            if mode not in modes and getattr(self, field.name) != field.default:
                yield (field.name,), f"used in mode {' and '.join(modes)} alone, and this one is {mode}"

    def check_shaping(self, shaping: Shaping) -> Iterator[tuple[Key, str]]:
        """(key, message) if ``shaping`` cannot be had."""
        if shaping in ("kernel", "tbf+emulated"):
            yield ("links",), "the links of a federation are emulated or not shaped; give --shaping emulated"

    @property
    def stage_spec(self) -> StageSpec:
        """What stands at the cut."""
        return stage_specs(self.stage, 1)[0]

    def split_point(self, layout: Chain) -> int:
        """Layers that a client has: all of them in federated learning. Raises ValueError."""
        if self.method.scheme == "fl":
            return len(layout)
        point = boundary_after(layout, self.cut) if isinstance(self.cut, str) else self.cut
        if not 0 < point < len(layout):
            raise ValueError(f"cut {self.cut}: a client has some of the model's {len(layout)} layers, not all")
        return point

    def federation(self, job: Job) -> Federation:
        """What is asked of the nodes. Raises ValueError."""
        return Federation(
            job=job,
            scheme=self.method.scheme,
            clients=self.clients,
            edges=self.edges,
            rounds=self.rounds,
            local_steps=self.local_steps,
            phi=self.method.phi,
            statistics=self.method.statistics,
            partition=self.partition,
            cloud_every=self.cloud_every,
            test_every=self.test_every,
            staleness=self.method.staleness,
            fade=self.method.fade,
            slowdowns=self.slowdowns,
            absences=self.absences,
            moves=self.moves,
        )


def _minimal(parameters: Clients, layout: Chain) -> dict[str, Any]:
    """What a job takes, whatever the data."""
    return {
        "model": str(parameters.model),
        "input_shape": layout.input_shape,
        "classes": ANY_CLASSES,
        "nodes": ("client", "edge"),
        "splits": (parameters.split_point(layout),),
        "stages": (parameters.stage_spec,),
    }


@functools.lru_cache(maxsize=64)
def _unjoinable(job: bytes, phi: float) -> str:
    """Why the server of ``job``, encoded, cannot take a joint step on what several clients send, if it cannot."""
    try:
        check_joint(msgspec.json.decode(job, type=Job), phi)
    except ProtocolError as error:
        return str(error)
    except Exception:  # of a stage that cannot do with shapes alone: what it does shows when it has data
        return ""
    return ""


def course(parameters: Clients, context: Context) -> Iterator[Measurement]:
    """Train, and tell round by round how well, what crossed, who worked, and on a clock how long it took."""
    classes = parameters.classes(context)
    layout = parameters.layout(classes)
    data = _data(parameters, context)
    job = _job(parameters, context, classes, layout)
    federation = parameters.federation(job)
    work = _work(parameters, job, layout)
    links = [duplex(parameters.links[number % len(parameters.links)]) for number in range(parameters.clients)]
    if context.mode == "live":
        outcome = _live(parameters, context, federation, links)
        yield Measurement("uncalibrated_links", len(outcome.uncalibrated), "directions")
    elif context.mode == "virtual":
        federation = msgspec.structs.replace(federation, test_every=0, **_timings(parameters, work))
        joined = dict(zip(federation.client_names, links, strict=True))
        joined |= dict.fromkeys(federation.edge_names, duplex(parameters.backhaul))
        outcome = run_in_virtual_time(federation, joined, data, parameters.learn)
    else:
        outcome = run_in_process(federation, data, _saying(context))
    learned = parameters.learn and context.dataset != "none"
    if not learned:  # blank pictures or none: answers are right by chance
        outcome.rounds = [RoundReport(told=one.told, right=[], tested=[]) for one in outcome.rounds]
    yield from _rounds(outcome, parameters, learned, timed=context.mode != "in-process")
    yield from _totals(outcome, parameters, work)


def _live(parameters: Clients, context: Context, federation: Federation, links: list[Duplex]) -> FederationOutcome:
    from bench.live_federation import run_live  # noqa: PLC0415  (aiohttp and uvloop, which a run in process does without)

    outcome = run_live(
        federation,
        links,
        duplex(parameters.backhaul),
        _saying(context),
        clients_per_process=parameters.clients_per_process,
        shaping=context.shaping,
        self_test=context.self_test,
    )
    if outcome.lost:
        raise RuntimeError("; ".join(f"{client} was lost: {how}" for client, how in outcome.lost.items()))
    for complaint in outcome.uncalibrated:
        context.say(f"not calibrated: {complaint}")
    return outcome


def _saying(context: Context) -> Say:
    def say(told: dict[str, float]) -> None:
        loss = told["loss"] / max(1.0, told["noted"])
        context.say(f"edge {told['edge'] + 1:.0f}, round {told['round'] + 1:.0f}: training loss {loss:.3f}")

    return say


def _data(parameters: Clients, context: Context) -> Dataset | None:
    if context.dataset == "none":
        return None
    everything = parameters.stored(context)
    return Dataset(
        everything.name,
        everything.classes,
        subset(everything.train, parameters.train_samples, context.seed),
        subset(everything.test, parameters.test_samples, context.seed),
    )


def _job(parameters: Clients, context: Context, classes: int, layout: Chain) -> Job:
    """A client and its server. A payload may be a whole network with Adam's state."""
    parameter_bytes = sum(4 * tensor.numel() for tensor in layout.model.state_dict().values())
    payload_bytes = largest_payload(layout, parameters.batch_size) + 3 * parameter_bytes
    needed = _minimal(parameters, layout) | {"classes": classes, "payload_bytes": payload_bytes}
    return parameters.job(context, layout, **needed)


class Work(msgspec.Struct, frozen=True):
    """Floating-point operations of one picture's forward pass, as counted."""

    client: float
    server: float


def _work(parameters: Clients, job: Job, layout: Chain) -> Work:
    """What a client and its server compute for a picture."""
    model = build_model(job.model, job.classes, job.input_shape, job.seed)
    chain, (split_point,) = Chain(model, job.input_shape), job.splits
    values = {chain.input: torch.zeros(1, *job.input_shape)}
    counted = []
    for start, stop in ((0, split_point), (split_point, len(chain))):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            values = chain.part(start, stop).eval()(values) if start < stop else values
        counted.append(float(counter.get_total_flops()))
    return Work(*counted)


def _timings(parameters: Clients, work: Work) -> dict[str, Timing]:
    """Seconds of a batch, forward and backward, of the fastest client and of a server."""
    client_s = work.client * parameters.batch_size / parameters.client_flops
    server_s = work.server * parameters.batch_size / parameters.server_flops
    return {
        "client_timing": Timing(forward_s=client_s, backward_s=BACKWARD * client_s),
        "server_timing": Timing(forward_s=server_s, backward_s=BACKWARD * server_s),
    }


class Moment(NamedTuple):
    """The end of a round, on the run's clock without tests; the accuracy then, if it was asked for."""

    elapsed_s: float
    accuracy: float | None


def _rounds(outcome: FederationOutcome, parameters: Clients, learned: bool, timed: bool) -> Iterator[Measurement]:
    """Round by round, over all edge servers; of losses only where something was ``learned``."""
    began = min(one.told["began"] for one in outcome.rounds)
    tests_s = 0.0  # which count for nothing; on a virtual clock they take no time
    moments: list[Moment] = []
    for number in range(parameters.rounds):
        of_round = [one for one in outcome.rounds if one.told["round"] == number]
        case: dict[str, CaseValue] = {"round": number + 1}
        noted = sum(one.told["noted"] for one in of_round)
        if noted and learned:
            loss = sum(one.told["loss"] for one in of_round) / noted
            if math.isfinite(loss):
                yield Measurement("training_loss", loss, "nats", case)
            else:  # a finding, not a failure of the run
                yield Measurement("diverged", 1, "1", case)
        accuracy = _accuracy(of_round)
        if accuracy is not None:
            yield Measurement("test_accuracy", accuracy, "1", case)
            yield Measurement("balanced_accuracy", _balanced(of_round), "1", case)
        trained = max(max(one.told["trained"], one.told["averaged"]) for one in of_round)
        moments.append(Moment(trained - began - tests_s, accuracy))
        tests_s += max(0.0, max(one.told["ended"] for one in of_round) - trained)
    if timed:
        yield from _times(moments, parameters)


def _times(moments: list[Moment], parameters: Clients) -> Iterator[Measurement]:
    """A round's mean time, and how accurate the network was when, by the last round that had ended."""
    yield Measurement("total_s", moments[-1].elapsed_s, "s")
    yield Measurement("round_s", moments[-1].elapsed_s / len(moments), "s")
    for time_s in parameters.times_s:
        ended = [one.accuracy for one in moments if one.elapsed_s <= time_s and one.accuracy is not None]
        if ended:
            yield Measurement("accuracy_at", ended[-1], "1", {"time_s": time_s})


def _totals(outcome: FederationOutcome, parameters: Clients, work: Work) -> Iterator[Measurement]:
    """What the whole came to."""

    def total(name: str) -> float:
        return sum(one.told[name] for one in outcome.rounds)

    last = [one for one in outcome.rounds if one.told["round"] == parameters.rounds - 1]
    accuracy = _accuracy(last)
    if accuracy is not None:
        yield Measurement("final_accuracy", accuracy, "1")
        yield Measurement("final_balanced_accuracy", _balanced(last), "1")
    steps = total("steps")
    yield Measurement("client_steps", steps, "steps")
    yield Measurement("up_bytes", total("up_bytes"), "B")
    yield Measurement("down_bytes", total("down_bytes"), "B")
    if parameters.moves:
        yield Measurement("moved_bytes", total("moved_bytes"), "B")
    spared = sum(one.told["shared_bytes"] * (1 - 1 / max(1.0, one.told["participants"])) for one in outcome.rounds)
    yield Measurement("down_broadcast_bytes", total("down_bytes") - spared, "B")
    operations = (1 + BACKWARD) * parameters.batch_size * steps * work.client
    yield Measurement("client_operations", operations, "FLOP")
    yield Measurement("client_share", work.client / (work.client + work.server), "1")
    busy = sum(node.compute_s for node in outcome.nodes if node.name.startswith("client"))
    yield Measurement("client_compute_s", busy / max(1.0, steps), "s/step")
    updates = total("updates")
    if updates:
        yield Measurement("server_updates", updates, "updates")
        yield Measurement("backward_samples", total("backward_samples") / updates, "samples/update")
        yield Measurement("forward_samples", total("forward_samples") / updates, "samples/update")
    if total("backward_s"):
        yield Measurement("backward_s", total("backward_s") / updates, "s/update")
    if parameters.method.scheme == "psl-async":
        yield Measurement("staleness", total("staleness") / steps, "updates")


def _accuracy(rounds: list[RoundReport]) -> float | None:
    """Right answers of all; None where none were asked for."""
    tested = sum(sum(one.tested) for one in rounds)
    return sum(sum(one.right) for one in rounds) / tested if tested else None


def _balanced(rounds: list[RoundReport]) -> float:
    """The mean of the classes' accuracies, of those that occur."""
    right = torch.tensor([one.right for one in rounds if one.tested]).sum(0)
    tested = torch.tensor([one.tested for one in rounds if one.tested]).sum(0)
    return float((right[tested > 0] / tested[tested > 0]).mean())
