"""What is a chain of nodes asked to do? One frozen description, the same for every node and every mode."""

from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from nodes.spec.policy import LinkSpec, Policy

Granularity = Literal["op", "module"]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a job."""


class StageSpec(_Spec, frozen=True, kw_only=True):
    """The stage at a cut: a built-in's name or ``module:callable``, and its options."""

    name: str = "identity"
    options: dict[str, Any] = {}


class OptimizerSpec(_Spec, frozen=True, kw_only=True):
    """Each node's own optimizer, over its own parameters. ``schedule`` is per epoch.

    Each of ``factors`` is (epoch, by what the learning rate is multiplied from then on); 1 before the first.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, msgspec.Meta(ge=0)] = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    factors: tuple[tuple[int, float], ...] = ()


class DataSpec(_Spec, frozen=True, kw_only=True):
    """What the UE reads. ``name`` is a data set of ``nodes.data.datasets``; None for a count takes all there is.

    "none" is no data: as many blank pictures as the counts say.
    """

    name: str = "digits"
    directory: str | None = None
    train_samples: int | None = None
    test_samples: int | None = None
    augment: bool = False


class Seat(NamedTuple):
    """One node process of a job: its name, and which node of the chain it is; of many sources, which."""

    name: str
    node: int
    source: int


class Timing(_Spec, frozen=True, kw_only=True):
    """What one batch costs a node, in seconds: forward, and backward with the optimizer's step."""

    forward_s: float = 0.0
    backward_s: float = 0.0

    def __post_init__(self) -> None:
        if not (self.forward_s >= 0 and self.backward_s >= 0):
            raise ValueError("forward_s and backward_s must not be negative")


class Device(_Spec, frozen=True, kw_only=True):
    """How slow a node is: ``slowdown`` times this machine's own CPU time, or what ``timing`` says if it is given.

    A live node computes and then waits, so it can only be made slower than the machine that it runs on.
    """

    slowdown: float = 1.0
    timing: Timing | None = None

    def __post_init__(self) -> None:
        if not self.slowdown >= 1:
            raise ValueError(f"slowdown must be at least 1, got {self.slowdown}")
        if self.timing is not None and self.slowdown != 1:
            raise ValueError("give slowdown or timing, not both")


class Control(_Spec, frozen=True, kw_only=True):
    """Let split-cost messages move layers between the nodes during training (``nodes.training.migration``).

    HiveMind, section IV-E: moving layers is part of the cost of a split (Eq. 8 and 9).

    Args:
        layer_s: Seconds [P][L] of each layer in one training step, forward and backward, by node.
        links: The P-1 links as reported to the nodes, by the training step from which they hold, counted over all
            epochs. Must have step 0.
        policy: When updates are sent and splits change; what concerns tasks and periods is not used.
        every_steps: Training steps between two requests for an assignment, if the last answer has arrived.
        horizon_steps: Training steps for which an assignment is taken to hold; the cost of moving is spread over them.

    Raises:
        ValueError: A number below 1, or no links at step 0.
    """

    layer_s: tuple[tuple[float, ...], ...]
    links: dict[int, tuple[LinkSpec, ...]]
    policy: Policy = Policy()
    every_steps: int = 1
    horizon_steps: int = 100

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.horizon_steps < 1:
            raise ValueError("every_steps and horizon_steps must be at least 1")
        if 0 not in self.links:
            raise ValueError(f"links: no entry for step 0, got {sorted(self.links)}")


class Job(_Spec, frozen=True, kw_only=True):
    """A task for a chain of P nodes: train for ``epochs``, testing after each; 0 epochs only tests.

    ``splits`` has P-1 entries: layers done when leaving node p. ``stages`` has one entry a link; a stage acts
    where two neighbouring parts of the model meet, so the stage of the last link before the receiving part is
    taken and nodes without layers pass its wire tensors on.

    The states after the epochs ``members`` make a family: every node keeps them, and once training is over it uses
    member k (from 1) for whatever is of assignment k.

    With several ``sources`` the first of two nodes stands for as many UEs, each with an equal part of the pictures
    and a part of the model of its own, over one link that they share; the server's part they train in turn.
    """

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    nodes: tuple[str, ...]
    splits: tuple[int, ...]
    stages: tuple[StageSpec, ...]
    data: DataSpec = DataSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    epochs: int = 1
    steps: int | None = None  # at most so many training steps; None: whole epochs
    batch_size: int = 128
    microbatches: int = 1
    window: int = 4  # batches in flight during inference
    seed: int = 0
    threads: int | None = None  # torch threads a node; None: torch's own choice
    device: str = "cpu"
    payload_bytes: int = 1 << 26  # the most that one message may carry
    devices: tuple[Device, ...] = ()  # one a node, or none: each as fast as it is
    moves: dict[int, tuple[int, ...]] | None = None  # splits from training step so and so on; None: layers stay
    control: Control | None = None  # who decides on moves instead
    weights: str | None = None  # a file of parameters and buffers by name: what fits is where training begins
    members: tuple[int, ...] = ()
    sources: int = 1
    checkpoint: str | None = None  # a folder; each node saves its part there after every epoch

    def __post_init__(self) -> None:
        links = len(self.nodes) - 1
        if links < 0 or len(set(self.nodes)) != len(self.nodes):
            raise ValueError("nodes: at least one, with names of their own")
        if len(self.splits) != links or len(self.stages) != links:
            raise ValueError(f"{links + 1} nodes need {links} splits and stages")
        if len(self.devices) not in (0, links + 1):
            raise ValueError(f"{links + 1} nodes need {links + 1} devices or none, got {len(self.devices)}")
        if list(self.splits) != sorted(self.splits) or any(split < 0 for split in self.splits):
            raise ValueError(f"splits must not decrease, got {list(self.splits)}")
        if any(len(splits) != links for splits in (self.moves or {}).values()):
            raise ValueError(f"moves: {links + 1} nodes need {links} splits")
        if self.control is not None:
            if self.moves is not None or not links:
                raise ValueError("control: two nodes or more, and no moves beside it")
            if len(self.control.layer_s) != links + 1 or any(
                len(told) != links for told in self.control.links.values()
            ):
                raise ValueError(f"control: {links + 1} nodes need {links + 1} rows of layer_s and {links} links")
        if min(self.batch_size, self.microbatches, self.window) < 1 or self.batch_size % self.microbatches:
            raise ValueError("batch_size, microbatches and window must be at least 1, and microbatches divide it")
        if self.sources < 1 or (self.sources > 1 and (links != 1 or self.microbatches > 1 or self.members)):
            raise ValueError(f"{self.sources} sources: one or more; several of two nodes, no microbatches, no members")
        if self.members and self.mobile:
            raise ValueError("members: a family is of layers that stay where they are, give no moves and no control")
        if self.sources > 1 and self.checkpoint:
            raise ValueError("sources: the state of several is not kept, give no checkpoint")

    @property
    def mobile(self) -> bool:
        """Whether layers may change their nodes during training."""
        return self.moves is not None or self.control is not None

    @property
    def seats(self) -> tuple[Seat, ...]:
        """Every node process, those of the sources first."""
        if self.sources == 1:
            return tuple(Seat(name, index, 0) for index, name in enumerate(self.nodes))
        sources = [Seat(f"{self.nodes[0]}{source + 1}", 0, source) for source in range(self.sources)]
        return (*sources, Seat(self.nodes[1], 1, 0))

    @property
    def connections(self) -> tuple[tuple[Seat, Seat], ...]:
        """Every pair of neighbours, upstream first."""
        if self.sources == 1:
            return tuple(pairwise(self.seats))
        *sources, server = self.seats
        return tuple((source, server) for source in sources)
