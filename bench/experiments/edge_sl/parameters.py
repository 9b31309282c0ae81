"""Parameters of many clients that train one network together, and their checks."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.learning import (
    ANY_CLASSES,
    TRAINING,
    Learning,
    check_pass,
    check_stage,
    weights_problems,
)
from bench.experiments.common.two_node_training import boundary_after
from bench.suite.experiment import Problem, Setting, absent_hosts, attempt, unused_in
from bench.suite.parameter_types import Count, ModelName, Positive, StageChoice, stage_specs
from netem.profiles import Duplex, LinkName
from nodes.errors import ProtocolError
from nodes.federated.schemes import Scheme, build_scheme, scheme_of
from nodes.federated.shape_workers import check_joint
from nodes.model.chain import Chain
from nodes.spec.federation import CLOUD, Absence, ClientMove, Federation, Partition, SchemeSpec
from nodes.spec.job import Job, StageSpec
from nodes.user_modules import cached_by_modules
from reports.record import Mode

# Parameters that only some modes use; another mode refuses them. In process, compute takes its own time.
USED_IN: dict[str, tuple[Mode, ...]] = {
    "links": ("live", "virtual"),
    "backhaul": ("live", "virtual"),
    "slowdowns": ("live", "virtual"),
    "times_s": ("live", "virtual"),
    "round_deadline_s": ("live", "virtual"),
    "client_flops": ("virtual",),
    "server_flops": ("virtual",),
    "learn": ("virtual",),
    "shared_cell": ("virtual",),
    "clients_per_process": ("live",),
}


class SchemeChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scheme, a built-in's name or ``module:callable``, with its options."""

    scheme: str = "psl"
    options: dict[str, Any] = {}

    @property
    def spec(self) -> SchemeSpec:
        """The scheme's specification."""
        return SchemeSpec(name=self.scheme, options=self.options)

    def build(self) -> Scheme:
        """The scheme itself. Raises ValueError."""
        return build_scheme(self.spec)


class Clients(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``clients`` that train ``model`` by ``method``; ``cut`` is a client's last module or its number of layers.

    ``tail`` makes the split U-shaped: it is the server's last module or the layers done there; the layers after it and
    the labels stay with the client. ``stage`` acts at both cuts.

    On a virtual clock a client computes ``client_flops`` operations a second, divided by its one of ``slowdowns``, an
    edge server ``server_flops``. ``links`` are the clients', repeated if there are more clients; ``backhaul`` joins
    an edge server to the cloud; in a ``shared_cell`` the clients of an edge server transmit one after the other.
    ``server_lr`` is the servers' learning rate, if it is not the clients'. In each round ``participants`` clients of an
    edge server train. After ``round_deadline_s`` it goes on without those that are late; fewer than ``least_clients``
    end the run. Live, ``clients_per_process`` clients share a process.
    """

    model: ModelName = ModelName("nodes.zoo.small_cnn:small_cnn")
    cut: str | Count = 5
    tail: str | Count | None = None
    method: SchemeChoice = SchemeChoice()
    stage: StageChoice = "identity"
    clients: Count = 5
    clients_per_process: Count = 1
    edges: Count = 1
    rounds: Count = 1
    local_steps: Count | None = None
    partition: Partition = Partition()
    server_lr: Positive | None = None
    participants: Count | None = None
    round_deadline_s: Positive | None = None
    least_clients: Count = 1
    batch_norm: Literal["shared", "local"] = "shared"
    cloud_every: Count = 1
    test_every: Count = 1
    slowdowns: tuple[float, ...] = (1.0,)
    absences: tuple[Absence, ...] = ()
    moves: tuple[ClientMove, ...] = ()
    links: Annotated[tuple[LinkName | Duplex, ...], msgspec.Meta(min_length=1)] = ("unlimited",)
    shared_cell: bool = False
    backhaul: LinkName | Duplex = "unlimited"
    client_flops: Positive = 2e9
    server_flops: Positive = 1e11
    batch_size: Count = 32
    weights: str | None = None  # of all clients and servers at first: a file, or "torchvision"
    learn: bool = True  # on a virtual clock; if false, only shapes are computed: the same messages at the same times
    times_s: tuple[Positive, ...] = ()  # at which a virtual or live run records accuracy

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from unused_in(self, USED_IN, setting.mode)
        yield from self._unused(setting.mode)
        yield from self.sample_problems(setting, self.least, test=self.clients)
        if self.learn:
            yield from weights_problems(self, self.weights, setting)
        elif self.weights is not None:
            yield Problem(("weights",), "where nothing is learned weights are unused")
        if setting.shaping in ("kernel", "tbf+emulated"):
            message = "a federation cannot shape its links in the kernel; give --shaping emulated or none"
            yield Problem(("links",), message)
        yield from self._host_problems(setting)
        layout = yield from self.checked_layout(setting, self.learn)
        scheme = yield from attempt(("method",), self.method.build)
        if layout is None or scheme is None:
            yield from attempt(("stage",), check_stage, self.stage_spec, None)
        else:
            yield from self._scheme_problems(layout, scheme)

    @property
    def least(self) -> tuple[int, str]:
        """The least number of training pictures, and the reason."""
        shards = self.partition.shards if self.partition.kind == "shards" else 1
        count = self.clients * shards * -(-self.batch_size // shards)
        return count, f"a batch of {self.batch_size} for each of {self.clients} clients"

    def _unused(self, mode: Mode) -> Iterator[Problem]:
        """Parameters that others leave without a use."""
        for name in ("backhaul", "cloud_every") if self.edges == 1 else ():
            yield Problem((name,), "only used with several edge servers; edges is 1", unused=True)
        for name in () if self.learn else (*TRAINING, "server_lr"):
            yield Problem((name,), "only used where networks learn; learn is false", unused=True)
        if mode == "virtual":
            yield Problem(("test_every",), "not used in mode virtual, where tests take no time", unused=True)

    def _host_problems(self, setting: Setting) -> Iterator[Problem]:
        """What machines of their own cannot do."""
        servers = [f"edge{number + 1}" for number in range(self.edges)]
        yield from absent_hosts(("clients",), (f"client{number + 1}" for number in range(self.clients)), setting)
        yield from absent_hosts(("edges",), [*servers, *([CLOUD] if self.edges > 1 else [])], setting)
        if setting.hosts is not None and self.clients_per_process > 1:
            yield Problem(("clients_per_process",), "each client has a machine of its own; give 1 with --hosts")

    def _scheme_problems(self, layout: Chain, scheme: Scheme) -> Iterator[Problem]:
        if self.learn:
            yield from attempt(("batch_size",), check_pass, layout, self.batch_size)
        for name in ("cut", "tail", "stage", "server_lr") if scheme.server_parts == "none" else ():
            yield Problem((name,), "not used: clients have the whole network", unused=True)
        split_point = yield from attempt(("cut",), self.split_point, layout)
        if split_point is None:
            yield from attempt(("stage",), check_stage, self.stage_spec, None)
            return
        crossing = layout.shapes(split_point) if split_point < len(layout) else None
        returns_at = yield from attempt(("tail",), self.returns_at, layout)
        if returns_at is None and self.tail is not None and scheme.server_parts != "none":
            return
        cuts = (crossing, None if returns_at is None else layout.shapes(returns_at))
        wrong = [one for at in cuts for one in attempt(("stage",), check_stage, self.stage_spec, at, False)]
        if wrong:
            yield from wrong[:1]
        else:
            crossings = {"cut": None if crossing is None else split_point, "tail": returns_at}
            found = [
                problem
                for name, done in crossings.items()
                if done is not None
                for problem in cut_problems((name,), layout, done, self.stage_spec)
            ]
            yield from found
            joint = scheme.server_parts == "joint" and self.clients > 1 and all(problem.note for problem in found)
            if joint and (why := _unjoinable(msgspec.json.encode((minimal(self, layout), self.method.spec)))):
                yield Problem(("cut",) if self.stage == "identity" else ("stage",), why)
        try:
            scheme_of(self.federation(Job(**minimal(self, layout))))
        except ValueError as error:
            first, _, _ = str(error).partition(":")
            yield Problem((first if first in self.__struct_fields__ else "method",), str(error))

    @property
    def stage_spec(self) -> StageSpec:
        """The stage at the cut."""
        return stage_specs(self.stage, 1)[0]

    def split_point(self, layout: Chain) -> int:
        """The number of a client's layers; all in federated learning. Raises ValueError."""
        if self.method.build().server_parts == "none":
            return len(layout)
        point = boundary_after(layout, self.cut) if isinstance(self.cut, str) else self.cut
        if not 0 < point < len(layout):
            raise ValueError(
                f"got {self.cut}; give a client at least one of the model's {len(layout)} layers, and not all"
            )
        return point

    def returns_at(self, layout: Chain) -> int | None:
        """The layers done when a task returns to its client, if it does. Raises ValueError."""
        if self.tail is None or self.method.build().server_parts == "none":
            return None
        point = boundary_after(layout, self.tail) if isinstance(self.tail, str) else self.tail
        first = self.split_point(layout) + 1
        if not first <= point < len(layout):
            raise ValueError(f"got {self.tail}, {point} layers; give {first} to {len(layout) - 1}, beyond the cut")
        return point

    def federation(self, job: Job) -> Federation:
        """The federation of these parameters. Raises ValueError."""
        return Federation(
            job=job,
            scheme=self.method.spec,
            clients=self.clients,
            edges=self.edges,
            rounds=self.rounds,
            local_steps=self.local_steps,
            partition=self.partition,
            server_lr=self.server_lr,
            participants=self.participants,
            round_deadline_s=self.round_deadline_s,
            least_clients=self.least_clients,
            batch_norm=self.batch_norm,
            cloud_every=self.cloud_every,
            test_every=self.test_every,
            slowdowns=self.slowdowns,
            absences=self.absences,
            moves=self.moves,
        )


def minimal(parameters: Clients, layout: Chain) -> dict[str, Any]:
    """The fields of a job that do not depend on the data."""
    returns_at = parameters.returns_at(layout)
    return {
        "model": str(parameters.model),
        "input_shape": layout.input_shape,
        "input_type": parameters.sample.dtype,
        "classes": ANY_CLASSES,
        "nodes": ("client", "edge"),
        "splits": (parameters.split_point(layout),),
        "stages": (parameters.stage_spec,) * (1 if returns_at is None else 2),
        "tail": returns_at,
    }


@cached_by_modules(maxsize=64)
def _unjoinable(encoded: bytes) -> str:
    """Why the server cannot take a joint step on what several clients send, if it cannot, by job and scheme."""
    job, scheme = msgspec.json.decode(encoded, type=tuple[Job, SchemeSpec])
    with suppress(Exception):  # of a stage that cannot do with shapes alone: what it does shows when it has data
        try:
            check_joint(job, build_scheme(scheme))
        except ProtocolError as error:
            return str(error)
    return ""
