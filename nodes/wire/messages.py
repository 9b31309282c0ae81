"""What do nodes say to each other? Frozen messages, one closed union.

A message that carries tensors holds them in ``tensors``, by name. On the wire the header names their dtypes and
shapes and the raw buffers follow it (see ``codec``); in virtual time they are meta tensors, which have a shape
and no data. Every message of a task names its ``assignment`` (which split of the model it belongs to), ``step``
and ``microbatch``; the order of messages between two nodes is kept by a sequence number in the frame.
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


class Message(msgspec.Struct, frozen=True, kw_only=True, eq=False, forbid_unknown_fields=True):
    """Base of all messages."""


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """The first message on a connection: who speaks."""

    node: str
    pid: int = 0
    port: int = 0


class Configure(Message, frozen=True, kw_only=True, tag="configure"):
    """Runner to node: the job, which of its nodes (and sources) you are, where your downstream neighbour listens."""

    job: Job
    index: int
    downstream: tuple[str, int] | None = None
    source: int = 0


class Peer(NamedTuple):
    """A node, and where it listens."""

    name: str
    host: str = ""
    port: int = 0


class Serve(Message, frozen=True, kw_only=True, tag="serve"):
    """Runner to node: take part in ``service``. ``layer_s`` [L] are its own layers' costs, ``incoming`` what it
    knows of its links, by the neighbour upstream; the ``source`` is the UE."""

    service: Service
    layer_s: tuple[float, ...]
    incoming: dict[str, LinkSpec] = {}
    source: bool = False


class Enlist(Message, frozen=True, kw_only=True, tag="enlist"):
    """Runner to node: be ``names`` of ``federation``, all in one process: an edge server, the cloud, or clients.
    ``servers`` says where each of them finds its server, as far as it has one; first that with which it begins."""

    federation: Federation
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    servers: dict[str, tuple[Peer, ...]] = {}


class LinkState(Message, frozen=True, kw_only=True, tag="link"):
    """Runner to node: what is known from now on of the link from neighbour ``upper``, as a base station would tell."""

    upper: str
    link: LinkSpec


class Route(Message, frozen=True, kw_only=True, tag="route"):
    """Runner to node: the nodes downstream of it, the nearest first; it may change between tasks. In a federation, edge
    server to client: which one to go to, by its name, to be there from round ``assignment`` on."""

    nodes: tuple[Peer, ...]
    assignment: int = 0


class SplitCost(Message, frozen=True, kw_only=True, tag="sci"):
    """Split-cost information (HiveMind, section IV-C): ``tensors["cost_s"]`` is float32 [L+1], the least cost from
    each boundary on, as the sender sees it. ``assignment`` numbers the update."""

    assignment: int
    node: str
    tensors: Tensors


class Assign(Message, frozen=True, kw_only=True, tag="assign"):
    """Which layers each node holds: ``splits[p]`` layers are done when the task leaves node p; in training, from
    the next step on, which is one of ``epoch`` (from 0).

    To the UE of a trained family, ``assignment`` is the member that its requests are for from now on.
    """

    assignment: int
    splits: tuple[int, ...]
    epoch: int = 0


class Proposal(Message, frozen=True, kw_only=True, tag="proposal"):
    """Where the nodes would cut from training step ``step`` on: each adds its split on the way down, the last none.

    Complete, it returns to the UE, behind the split costs of an update that begins at the last node."""

    step: int
    splits: tuple[int, ...]


class Parameters(Message, frozen=True, kw_only=True, tag="parameters"):
    """State of layers ``start`` to ``stop`` (parameters, buffers and optimizer state), by name."""

    assignment: int
    start: int
    stop: int
    tensors: Tensors


class Weights(Message, frozen=True, kw_only=True, tag="weights"):
    """A part of the model by the names of its parameters and buffers: up, as it is after round ``assignment`` and with
    how many ``samples`` it was trained; down, to go on from. An edge server's part begins with "server."."""

    assignment: int
    samples: int = 0
    tensors: Tensors


class Handover(Message, frozen=True, kw_only=True, tag="handover"):
    """Edge server to edge server ``to``, by the cloud: from round ``assignment`` on ``client`` is yours. ``tensors``
    are what it has at a server for itself alone; ``here``: it is on its way, and not away at the time."""

    assignment: int
    client: int
    to: str
    here: bool
    tensors: Tensors = {}


class Round(Message, frozen=True, kw_only=True, tag="round"):
    """Server to client: take ``steps`` training steps of round ``assignment`` (from 0); with none of them, test."""

    assignment: int
    steps: int = 0


class Activation(Message, frozen=True, kw_only=True, tag="activation"):
    """Smashed data going downstream, with the labels of the batch.

    ``tensors`` are the stage's wire tensors, ``labels`` one more; ``grads`` names the values whose gradients
    return; ``scalars`` and ``views`` complete the boundary's values. After the step's update every node saves its
    state if ``save`` says so, as that after so many epochs. ``done`` says how many layers are, where no assignment
    does: each node then chooses its own stop.
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
    """Gradients going upstream, by value name; a value without a gradient is absent. ``metrics`` of the last node."""

    assignment: int
    step: int
    microbatch: int = 0
    metrics: dict[str, float] = {}
    tensors: Tensors


class Result(Message, frozen=True, kw_only=True, tag="result"):
    """What came of a task, going upstream to the UE; or what a node reports to the runner."""

    assignment: int
    step: int
    microbatch: int = 0
    metrics: dict[str, float] = {}
    tensors: Tensors = {}


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """A node lives; ``metrics`` say how far it is."""

    node: str
    metrics: dict[str, float] = {}


class Error(Message, frozen=True, kw_only=True, tag="error"):
    """Something failed at ``node``; it ends the job there. ``traceback`` is that of the node's own code, else empty."""

    node: str
    reason: str
    traceback: Annotated[str, msgspec.Meta(max_length=TRACEBACK_CHARACTERS)] = ""


class Shutdown(Message, frozen=True, kw_only=True, tag="shutdown"):
    """No more tasks will come; to the runner, with the node's report (a ``NodeReport`` as plain data)."""

    reason: str = "done"
    report: dict[str, Any] = {}


AnyMessage = (
    Hello
    | Configure
    | Serve
    | Enlist
    | LinkState
    | Route
    | SplitCost
    | Assign
    | Proposal
    | Parameters
    | Weights
    | Handover
    | Round
    | Activation
    | Gradient
    | Result
    | Heartbeat
    | Error
    | Shutdown
)
