"""Messages between nodes: frozen structs in one closed union.

A message of a task names its ``assignment`` (number of the split, or federated round), ``step`` and ``microbatch``.
Uplink leads away from the UE, to the next node; downlink towards the UE. In virtual time tensors are meta tensors.
"""

from typing import Annotated, NamedTuple

import msgspec
import torch

from nodes.errors import TRACEBACK_CHARACTERS
from nodes.model.boundary import Scalar, Strides, Tensors, View
from nodes.spec import credentials
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Service

RUNNER = credentials.RUNNER  # the runner's name as a peer
# What a peer may send in a field, held against it before a message is made.
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
Port = Annotated[int, msgspec.Meta(ge=0, lt=1 << 16)]
Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]  # neither infinite nor NaN
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Message(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """Base of all messages."""


class Peer(NamedTuple):
    """A node and the address it listens on."""

    name: str
    host: str = ""
    port: Port = 0


# Control: connection and lifecycle of a node


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """Node to runner: the node is set up and waits for ``Begin``."""

    node: str
    pid: Number = 0


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """Runner to node: begin the job, service or federation."""


class Computation(NamedTuple):
    """A computation of node ``node`` that has run for ``seconds``, and the call that its thread is in."""

    node: str
    seconds: float
    where: str


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """The sender is alive: a node, with its computations that take long, or the runner."""

    node: str
    computing: tuple[Computation, ...] = ()


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """The sender has no more work; the receiver shuts down."""


class Replaced(Message, frozen=True, kw_only=True, tag="replaced"):
    """The sender replaced the receiver by another neighbour, or ended: nothing more follows on this channel."""


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """Node to runner: the nodes of the process are done; a part of their reports (``nodes.runtime.report``)."""

    part: bytes
    last: bool


class Failure(Message, frozen=True, kw_only=True, tag="failure"):
    """Node to runner: ``node`` failed; the reason in one line and the traceback."""

    node: str
    reason: str
    traceback: Annotated[str, msgspec.Meta(max_length=TRACEBACK_CHARACTERS)] = ""


class PeerLost(Message, frozen=True, kw_only=True, tag="peer-lost"):
    """Node to runner: the sender failed because its channel to ``peer`` ended."""

    peer: str
    reason: str


# Setup


class Configure(Message, frozen=True, kw_only=True, tag="configure"):
    """Runner to node: be node ``index`` of ``job``, as source ``source``; ``downstream`` is the next node's address."""

    job: Job
    index: Number
    downstream: tuple[str, Port] | None = None
    source: Number = 0

    def __post_init__(self) -> None:
        nodes, sources = len(self.job.nodes), self.job.sources
        if self.index >= nodes or self.source >= sources:
            raise ValueError(
                f"index {self.index}, source {self.source}: expected below {nodes} nodes and {sources} sources"
            )


class Serve(Message, frozen=True, kw_only=True, tag="serve"):
    """Runner to node: take part in ``service``; ``source`` marks the UE."""

    service: Service
    layer_s: tuple[Annotated[float, msgspec.Meta(ge=0)], ...]  # [L], of each layer here; infinite: it computes none
    incoming: dict[str, LinkSpec] = {}  # by the previous node's name
    source: bool = False


class Enlist(Message, frozen=True, kw_only=True, tag="enlist"):
    """Runner to process: be the nodes ``names`` of ``federation`` (an edge server, the cloud, or clients)."""

    federation: Federation
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    servers: dict[str, tuple[Peer, ...]] = {}  # of each node, its first server first


# Tasks of training and inference


class Activation(Message, frozen=True, kw_only=True, tag="activation"):
    """Smashed data of a batch, sent to the next node, with the batch's labels.

    ``tensors`` are the stage's wire tensors; ``scalars`` and ``views`` complete the boundary's values.
    """

    assignment: Number
    step: Number
    microbatch: Number = 0
    train: bool
    grads: tuple[str, ...] = ()  # values whose gradients return
    scalars: dict[str, Scalar] = {}
    views: dict[str, View] = {}
    tensors: Tensors
    labels: torch.Tensor | None = None
    teacher: torch.Tensor | msgspec.UnsetType = msgspec.UNSET  # logits (N, classes) of a teacher, if there is one
    save: Number | None = None  # after this step every node saves its state as that after ``save`` epochs
    steps: Number | msgspec.UnsetType = msgspec.UNSET  # of the whole training, where the learning rate depends on them
    done: Number | None = None  # layers computed, where each node chooses its own split point

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.dtype is not torch.int64:
            raise ValueError(f"labels: expected int64, got {self.labels.dtype}")


class Gradient(Message, frozen=True, kw_only=True, tag="gradient"):
    """Gradients by value name, sent to the previous node, with the last node's metrics (loss, correct, count).

    ``strides`` are those of gradients that differ from their values'.
    """

    assignment: Number
    step: Number
    microbatch: Number = 0
    metrics: dict[str, float] = {}
    strides: Strides | msgspec.UnsetType = msgspec.UNSET
    tensors: Tensors


class Result(Message, frozen=True, kw_only=True, tag="result"):
    """Output of the model for a batch or task, sent towards the UE; nodes on the way add ``metrics``."""

    assignment: Number
    step: Number
    microbatch: Number = 0
    metrics: dict[str, Finite] = {}
    tensors: Tensors = {}


class EpochReport(Message, frozen=True, kw_only=True, tag="epoch-report"):
    """UE to runner: metrics and losses of one epoch, times of its steps and test batches."""

    metrics: dict[str, float]
    losses: torch.Tensor
    step_s: torch.Tensor
    latency_s: torch.Tensor


class ServeMember(Message, frozen=True, kw_only=True, tag="serve-member"):
    """Runner to UE: serve later requests with ``member`` of the trained family."""

    member: Number


# Changing routes and splits


class Route(Message, frozen=True, kw_only=True, tag="route"):
    """Runner to node: the nodes after it, nearest first. Routes change between tasks only."""

    nodes: tuple[Peer, ...]


class LinkState(Message, frozen=True, kw_only=True, tag="link"):
    """Runner to node: state of the link from the previous node ``upper``, as a base station would announce it."""

    upper: str
    link: LinkSpec


class SplitCost(Message, frozen=True, kw_only=True, tag="sci"):
    """Split costs (HiveMind, section IV-C): ``cost_s``, float32 [L+1], the least cost from each boundary on."""

    assignment: Number  # number of the update
    node: str
    tensors: Tensors


class BeginUpdate(Message, frozen=True, kw_only=True, tag="begin-update"):
    """Runner to the last node of a route: begin split-cost update ``number``."""

    number: Number


class SplitPoint(Message, frozen=True, kw_only=True, tag="split-point"):
    """UE to runner: the UE's split point since split-cost update ``number``."""

    number: Number
    layers: Number


class TaskLost(Message, frozen=True, kw_only=True, tag="task-lost"):
    """To the previous node of a service: task ``step`` is lost."""

    step: Number


class TaskReport(Message, frozen=True, kw_only=True, tag="task-report"):
    """UE to runner: one task of a service. Times are by the nodes' clocks."""

    step: Number
    predicted_s: Finite  # the UE's least cost at the start
    began_s: Finite
    ended_s: Finite  # last layer done, result at its destination
    returned_s: Finite  # result received by the UE
    restarts: Number = 0  # by failures of nodes that held the task
    splits: dict[str, Number] = {}  # layers done on leaving each node
    tensors: Tensors = {}

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.began_s


class SplitRequest(Message, frozen=True, kw_only=True, tag="split-request"):
    """Runner to UE: move layers to these ``splits`` before the next training step."""

    splits: tuple[Number, ...]


class SplitChange(Message, frozen=True, kw_only=True, tag="split-change"):
    """To the next node: hold the layers of ``splits`` from the next training step on, in ``epoch`` (from 0)."""

    assignment: Number  # number of the change
    splits: tuple[Number, ...]  # layers done on leaving each node
    epoch: Number = 0


class Proposal(Message, frozen=True, kw_only=True, tag="proposal"):
    """Splits proposed from training step ``step`` on: each node but the last appends its own.

    The last node returns the complete proposal to the UE after its split-cost update.
    """

    step: Number
    splits: tuple[Number, ...]


class Parameters(Message, frozen=True, kw_only=True, tag="parameters"):
    """State of layers ``start`` to ``stop`` (parameters, buffers and optimizer state), by name."""

    assignment: Number
    start: Number
    stop: Number
    tensors: Tensors


# Federations: clients, edge servers and a cloud


class ClientHello(Message, frozen=True, kw_only=True, tag="client-hello"):
    """Client to edge server: join for round ``round`` (0: new, or back after a failure)."""

    round: Number
    begun: Number  # training steps taken before
    samples: Number
    mean_samples: Annotated[float, msgspec.Meta(ge=0, le=1e15)]  # over all clients
    current: bool = False  # whether the client has the part that its last server shared


class TrainRound(Message, frozen=True, kw_only=True, tag="train-round"):
    """Edge server to client: take ``steps`` training steps of round ``round`` (from 0)."""

    round: Number
    steps: Annotated[int, msgspec.Meta(ge=1)]


class TestRound(Message, frozen=True, kw_only=True, tag="test-round"):
    """Edge server to client: test after round ``round``."""

    round: Number


class RoundTrained(Message, frozen=True, kw_only=True, tag="round-trained"):
    """Client to edge server: sums over the samples of the round's training steps."""

    round: Number
    loss: float
    correct: Finite
    count: Finite


class RoundTested(Message, frozen=True, kw_only=True, tag="round-tested"):
    """Client to edge server: correct and all answers by class."""

    round: Number
    correct_by_class: torch.Tensor
    total_by_class: torch.Tensor


class ClientUpdate(Message, frozen=True, kw_only=True, tag="client-update"):
    """Client to edge server: the client's part of the model after ``round``, trained on ``samples``."""

    round: Number
    samples: Number
    tensors: Tensors


class ClientModel(Message, frozen=True, kw_only=True, tag="client-model"):
    """Edge server to client: the clients' part of the model to continue from."""

    round: Number
    tensors: Tensors


class EdgeUpdate(Message, frozen=True, kw_only=True, tag="edge-update"):
    """Edge server to cloud: its part, the clients' if shared, ``samples`` of all rounds since the last average."""

    round: Number
    samples: Number
    server: Tensors = {}
    client: Tensors = {}


class GlobalModel(Message, frozen=True, kw_only=True, tag="global-model"):
    """Cloud to edge server: the averaged parts, empty if no client trained."""

    round: Number
    server: Tensors = {}
    client: Tensors = {}


class Handover(Message, frozen=True, kw_only=True, tag="handover"):
    """Edge server to edge server ``to``, through the cloud: ``client`` belongs to ``to`` from ``round`` on."""

    round: Number
    client: Number
    to: str
    here: bool  # whether the client is about to join, not away
    tensors: Tensors = {}  # the client's own server copy


class ChangeServer(Message, frozen=True, kw_only=True, tag="change-server"):
    """Edge server to client: connect to edge server ``server``, for round ``round``."""

    server: str
    round: Number


class ClientLost(Message, frozen=True, kw_only=True, tag="client-lost"):
    """Runner to edge server: the process of ``client`` died."""

    client: str
    reason: str = ""


class ClientReturned(Message, frozen=True, kw_only=True, tag="client-returned"):
    """Runner to edge server: a new process of ``client`` runs."""

    client: str


class ClientFinished(Message, frozen=True, kw_only=True, tag="client-finished"):
    """Client's process to runner, and runner to edge server: ``client`` ended normally."""

    client: str


class RoundReport(Message, frozen=True, kw_only=True, tag="round-report"):
    """Edge server to runner: metrics of one round at server ``edge``; answers by class if clients tested."""

    round: Number
    edge: Number
    metrics: dict[str, float]
    correct_by_class: torch.Tensor | None = None
    total_by_class: torch.Tensor | None = None


# Messages with tensors that may be large.
Bulk = Activation | Gradient | Result | Parameters | ClientUpdate | ClientModel | EdgeUpdate | GlobalModel | Handover

Control = Ready | Begin | Heartbeat | Shutdown | Replaced | Report | Failure | PeerLost
Setup = Configure | Serve | Enlist
Task = Activation | Gradient | Result | EpochReport | ServeMember | TaskLost | TaskReport
Split = Route | LinkState | SplitCost | BeginUpdate | SplitPoint | SplitRequest | SplitChange | Proposal | Parameters
Round = TrainRound | TestRound | RoundTrained | RoundTested | RoundReport | ClientUpdate | ClientModel
Membership = ClientHello | Handover | ChangeServer | ClientLost | ClientReturned | ClientFinished
AnyMessage = Control | Setup | Task | Split | Round | EdgeUpdate | GlobalModel | Membership
