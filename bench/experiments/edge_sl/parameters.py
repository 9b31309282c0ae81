"""What may be asked of many clients that train one network together, and what of it does not fit?"""

import functools
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from bench.experiments.common.learning import ANY_CLASSES, Count, Learning
from bench.experiments.common.two_node_training import boundary_after
from bench.suite.document import Key
from bench.suite.parameter_types import ModelName, StageChoice, check_stage, stage_specs
from netem.profiles import Duplex, LinkName
from nodes.errors import ModelError, ProtocolError
from nodes.federated.shape_workers import check_joint
from nodes.model.chain import Chain
from nodes.spec.federation import FADE, Absence, ClientMove, Federation, Partition, Statistics
from nodes.spec.job import Job, StageSpec
from nodes.spec.schemes import SCHEMES, SchemeName
from nodes.stages.builtin import build_stage
from reports.record import Mode, ShapingBackend

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
Positive = Annotated[float, msgspec.Meta(gt=0)]


class SchemeChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
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

    model: ModelName = ModelName("nodes.zoo.small_cnn:small_cnn")
    cut: str | Count = 5
    method: SchemeChoice = SchemeChoice()
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
    moves: tuple[ClientMove, ...] = ()
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
            if joint and (why := _unjoinable(msgspec.json.encode(minimal(self, layout)), self.method.phi)):
                yield ("cut" if self.stage == "identity" else "stage",), why
        try:
            self.federation(Job(**minimal(self, layout)))
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

    def check_shaping(self, shaping: ShapingBackend) -> Iterator[tuple[Key, str]]:
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


def minimal(parameters: Clients, layout: Chain) -> dict[str, Any]:
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
