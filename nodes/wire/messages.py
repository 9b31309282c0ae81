"""Messages between nodes: frozen structs in one closed union, one meaning each.

A message with tensors names them in a field of type ``Tensors``. On the wire the header holds their dtypes and shapes
and the raw buffers follow it (``nodes.wire.codec``); in virtual time they are meta tensors, which have a shape and no
data. Every message of a task names its ``assignment`` (the split of the model, or the federated round, that it belongs
to), ``step`` and ``microbatch``; a sequence number in the frame keeps the order of messages between two nodes.

Directions: ``uplink`` leads away from the UE, to the next node; ``downlink`` towards the UE, to the previous node.
"""

from typing import Annotated, Any, NamedTuple

import msgspec
import torch

from nodes.errors import TRACEBACK_CHARACTERS
from nodes.model.boundary import Scalar, Tensors, View
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Service

RUNNER = "runner"  # name of the runner, as a node's peer


class Message(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """Base of all messages."""


class Peer(NamedTuple):
    """A node and the address at which it listens."""

    name: str
    host: str = ""
    port: int = 0


# Connection and life of a node


class Ready(Message, frozen=True, kw_only=True, tag="ready"):
    """Node to runner: the node is set up and waits for ``Begin``."""

    node: str
    pid: int = 0


class Begin(Message, frozen=True, kw_only=True, tag="begin"):
    """Runner to node: begin the job, service or federation."""


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """Node to runner: the node is alive."""

    node: str


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """The sender has no more work for the receiver, which ends."""


class Replaced(Message, frozen=True, kw_only=True, tag="replaced"):
    """The sender has another neighbour in the receiver's place, or has ended: this channel carries nothing more."""


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """Node to runner: the node is done; what it did (a ``NodeReport`` of its protocol) as plain data."""

    report: Any = None


class Failure(Message, frozen=True, kw_only=True, tag="failure"):
    """Node to runner: ``node`` cannot go on, with the reason in one line and the traceback of its own code."""

    node: str
    reason: str
    traceback: Annotated[str, msgspec.Meta(max_length=TRACEBACK_CHARACTERS)] = ""


class PeerLost(Message, frozen=True, kw_only=True, tag="peer-lost"):
    """Node to runner: the sender cannot go on because its channel to ``peer`` ended."""

    peer: str
    reason: str


# Setup by the runner


class Configure(Message, frozen=True, kw_only=True, tag="configure"):
    """Runner to node: node ``index`` of ``job`` (and which ``source``), and the address of the next node."""

    job: Job
    index: int
    downstream: tuple[str, int] | None = None
    source: int = 0


class Serve(Message, frozen=True, kw_only=True, tag="serve"):
    """Runner to node: take part in ``service``.

    ``layer_s`` [L] are the node's seconds of each layer, ``incoming`` the links from previous nodes by their name;
    the ``source`` is the UE.
    """

    service: Service
    layer_s: tuple[float, ...]
    incoming: dict[str, LinkSpec] = {}
    source: bool = False


class Enlist(Message, frozen=True, kw_only=True, tag="enlist"):
    """Runner to process: be the nodes ``names`` of ``federation`` (an edge server, the cloud, or clients).

    ``servers`` are the addresses of each node's servers, the one it begins with first.
    """

    federation: Federation
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    servers: dict[str, tuple[Peer, ...]] = {}


# Tasks: training and inference


class Activation(Message, frozen=True, kw_only=True, tag="activation"):
    """Smashed data of a batch, sent to the next node, with the batch's labels.

    ``tensors`` are the stage's wire tensors; ``grads`` names the values whose gradients return; ``scalars`` and
    ``views`` complete the boundary's values. After the step's update every node saves its state as that after
    ``save`` epochs. ``done`` is the number of layers done, where each node chooses its own split point.
    """

    assignment: int
    step: int
    microbatch: int = 0
    train: bool
    grads: tuple[str, ...] = ()
    scalars: dict[str, Scalar] = {}
    views: dict[str, View] = {}
    tensors: Tensors
    labels: torch.Tensor | None = None
    save: int | None = None
    done: int | None = None


class Gradient(Message, frozen=True, kw_only=True, tag="gradient"):
    """Gradients by value name, sent to the previous node; a value without a gradient is absent.

    ``metrics`` are the last node's: loss, correct answers, samples.
    """

    assignment: int
    step: int
    microbatch: int = 0
    metrics: dict[str, float] = {}
    tensors: Tensors


class Result(Message, frozen=True, kw_only=True, tag="result"):
    """Output of the model for a batch or task, sent back towards the UE; ``metrics`` are added on the way."""

    assignment: int
    step: int
    microbatch: int = 0
    metrics: dict[str, float] = {}
    tensors: Tensors = {}


class EpochReport(Message, frozen=True, kw_only=True, tag="epoch-report"):
    """UE to runner: metrics of one epoch, and its losses, seconds of each step and of each test batch."""

    metrics: dict[str, float]
    losses: torch.Tensor
    step_s: torch.Tensor
    latency_s: torch.Tensor


class ServeMember(Message, frozen=True, kw_only=True, tag="serve-member"):
    """Runner to UE: requests are for ``member`` of the trained family from now on."""

    member: int


# Splits that change


class Route(Message, frozen=True, kw_only=True, tag="route"):
    """Runner to node: the nodes after it, the next first. A route may change between tasks."""

    nodes: tuple[Peer, ...]


class LinkState(Message, frozen=True, kw_only=True, tag="link"):
    """Runner to node: the link from the previous node ``upper`` as a base station would announce it."""

    upper: str
    link: LinkSpec


class SplitCost(Message, frozen=True, kw_only=True, tag="sci"):
    """Split-cost information (HiveMind, section IV-C).

    ``tensors["cost_s"]`` is float32 [L+1], the least cost from each boundary on as the sender sees it. ``assignment``
    numbers the update.
    """

    assignment: int
    node: str
    tensors: Tensors


class BeginUpdate(Message, frozen=True, kw_only=True, tag="begin-update"):
    """Runner to the last node of a route: begin split-cost update ``number``."""

    number: int


class SplitPoint(Message, frozen=True, kw_only=True, tag="split-point"):
    """UE to runner: its own split point since split-cost update ``number``."""

    number: int
    layers: int


class TaskLost(Message, frozen=True, kw_only=True, tag="task-lost"):
    """To the previous node of a service: task ``step`` will not come back."""

    step: int


class TaskReport(Message, frozen=True, kw_only=True, tag="task-report"):
    """UE to runner: one task of a service. Times by the nodes' clocks, comparable where they share one."""

    step: int
    predicted_s: float  # the UE's least cost when it started
    began_s: float
    ended_s: float  # when the last layer was done and the result where it was to be
    returned_s: float  # when the UE received it
    restarts: int = 0  # deaths of nodes that had it
    splits: dict[str, int] = {}  # layers done when it left each node
    tensors: Tensors = {}

    @property
    def latency_s(self) -> float:
        """Seconds from the start until the last layer was done."""
        return self.ended_s - self.began_s


class SplitRequest(Message, frozen=True, kw_only=True, tag="split-request"):
    """Runner to UE: move layers to these ``splits`` before the next training step."""

    splits: tuple[int, ...]


class SplitChange(Message, frozen=True, kw_only=True, tag="split-change"):
    """To the next node: from the next training step on, in ``epoch`` (from 0), the nodes hold the layers of ``splits``.

    ``splits[p]`` layers are done when a task leaves node p. ``assignment`` numbers the change.
    """

    assignment: int
    splits: tuple[int, ...]
    epoch: int = 0


class Proposal(Message, frozen=True, kw_only=True, tag="proposal"):
    """Splits proposed from training step ``step`` on: each node adds its own on the way to the last, which adds none.

    Complete, it returns to the UE after the split costs of an update that begins at the last node.
    """

    step: int
    splits: tuple[int, ...]


class Parameters(Message, frozen=True, kw_only=True, tag="parameters"):
    """State of layers ``start`` to ``stop`` (parameters, buffers and optimizer state), by name."""

    assignment: int
    start: int
    stop: int
    tensors: Tensors


# Federations: clients, edge servers and a cloud


class ClientHello(Message, frozen=True, kw_only=True, tag="client-hello"):
    """Client to edge server: it comes for round ``round`` (0: it is new or was away) with ``samples`` pictures.

    ``begun`` training steps were taken before; ``mean_samples`` are those of the mean client. ``current``: it has the
    part that its last server shared.
    """

    round: int
    begun: int
    samples: int
    mean_samples: float
    current: bool = False


class TrainRound(Message, frozen=True, kw_only=True, tag="train-round"):
    """Edge server to client: take ``steps`` training steps of round ``round`` (from 0)."""

    round: int
    steps: Annotated[int, msgspec.Meta(ge=1)]


class TestRound(Message, frozen=True, kw_only=True, tag="test-round"):
    """Edge server to client: test after round ``round``."""

    round: int


class RoundTrained(Message, frozen=True, kw_only=True, tag="round-trained"):
    """Client to edge server: the steps of a round are done; sums over their samples."""

    round: int
    loss: float
    correct: float
    count: float


class RoundTested(Message, frozen=True, kw_only=True, tag="round-tested"):
    """Client to edge server: correct answers and all answers, by class."""

    round: int
    correct_by_class: torch.Tensor
    total_by_class: torch.Tensor


class ClientUpdate(Message, frozen=True, kw_only=True, tag="client-update"):
    """Client to edge server: its part of the model after round ``round``, trained with ``samples``."""

    round: int
    samples: int
    tensors: Tensors


class ClientModel(Message, frozen=True, kw_only=True, tag="client-model"):
    """Edge server to client: the clients' part of the model, to go on from."""

    round: int
    tensors: Tensors


class EdgeUpdate(Message, frozen=True, kw_only=True, tag="edge-update"):
    """Edge server to cloud: its part, and the clients' where it is shared, trained with ``samples`` in a round."""

    round: int
    samples: int
    server: Tensors = {}
    client: Tensors = {}


class GlobalModel(Message, frozen=True, kw_only=True, tag="global-model"):
    """Cloud to edge server: the averaged parts, empty where nobody trained."""

    round: int
    server: Tensors = {}
    client: Tensors = {}


class Handover(Message, frozen=True, kw_only=True, tag="handover"):
    """Edge server to edge server ``to``, by the cloud: ``client`` is yours from round ``round`` on.

    ``tensors`` are what the client has at a server for itself alone; ``here``: it is on its way, not away at the time.
    """

    round: int
    client: int
    to: str
    here: bool
    tensors: Tensors = {}


class ChangeServer(Message, frozen=True, kw_only=True, tag="change-server"):
    """Edge server to client: connect to edge server ``server``, for round ``round``."""

    server: str
    round: int


class ClientLost(Message, frozen=True, kw_only=True, tag="client-lost"):
    """Runner to edge server: the process of ``client`` died."""

    client: str
    reason: str = ""


class ClientReturned(Message, frozen=True, kw_only=True, tag="client-returned"):
    """Runner to edge server: a process of ``client`` lives again."""

    client: str


class ClientFinished(Message, frozen=True, kw_only=True, tag="client-finished"):
    """Client's process to runner, and runner to edge server: ``client`` has ended as it should."""

    client: str


class RoundReport(Message, frozen=True, kw_only=True, tag="round-report"):
    """Edge server to runner: metrics of one round at server ``edge``; answers by class where clients tested."""

    round: int
    edge: int
    metrics: dict[str, float]
    correct_by_class: torch.Tensor | None = None
    total_by_class: torch.Tensor | None = None


Setup = Configure | Serve | Enlist
# Messages whose tensors may be large.
Bulk = Activation | Gradient | Result | Parameters | ClientUpdate | ClientModel | EdgeUpdate | GlobalModel | Handover
AnyMessage = (
    Ready
    | Begin
    | Heartbeat
    | Shutdown
    | Replaced
    | Report
    | Failure
    | PeerLost
    | Configure
    | Serve
    | Enlist
    | Activation
    | Gradient
    | Result
    | EpochReport
    | ServeMember
    | Route
    | LinkState
    | SplitCost
    | BeginUpdate
    | SplitPoint
    | TaskLost
    | TaskReport
    | SplitRequest
    | SplitChange
    | Proposal
    | Parameters
    | ClientHello
    | TrainRound
    | TestRound
    | RoundTrained
    | RoundTested
    | ClientUpdate
    | ClientModel
    | EdgeUpdate
    | GlobalModel
    | Handover
    | ChangeServer
    | ClientLost
    | ClientReturned
    | ClientFinished
    | RoundReport
)
