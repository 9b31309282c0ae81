"""Specification of a training job for a chain of nodes: one frozen description for every node and mode."""

from itertools import pairwise
from math import isfinite
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec

from nodes.spec.policy import LinkSpec, Policy

Granularity = Literal["op", "module"]
# Largest payload of a message; the most that aiohttp can be told, with the header.
PayloadBytes = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
InputType = Literal["float32", "int64"]  # of a model's input: pictures or tokens
Precision = Literal["float32", "bfloat16"]
MemoryFormat = Literal["contiguous", "channels_last"]
Schedule = Literal["constant", "cosine", "one_cycle", "warm_cosine"]  # of a learning rate; the last two by step
ClipOver = Literal["node", "parameter"]
WARM_UP = 0.3  # if not given


def _check_choice(name: str, given: str, choices: Any) -> None:
    if given not in get_args(choices):
        raise ValueError(f"{name}: expected {' or '.join(get_args(choices))}, got {given!r}")


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the parts of a job."""


class StageSpec(_Spec, frozen=True, kw_only=True):
    """The stage at a cut."""

    name: str = "identity"  # a built-in stage (``nodes.stages.BUILT_IN``), or ``module:callable``
    options: dict[str, Any] = {}  # keyword arguments of the stage, beside the shapes at its boundary


class ModelSpec(_Spec, frozen=True, kw_only=True):
    """A model with options. Its text, ``NAME{"option": value}``, stands for it wherever a model is named."""

    name: str  # a short name of ``nodes.model.factory``, a torchvision classifier, or ``module:callable``
    options: dict[str, Any] = {}  # keyword arguments of its constructor, beside the number of classes

    @classmethod
    def read(cls, model: "str | ModelSpec") -> "ModelSpec":
        """The specification that a text stands for. Raises ValueError."""
        if isinstance(model, ModelSpec):
            return model
        name, brace, options = model.partition("{")
        try:
            given = msgspec.json.decode(brace + options, type=dict[str, Any]) if brace else {}
        except msgspec.DecodeError as error:
            raise ValueError(f"model {name!r}: options {brace + options} are no JSON object: {error}") from None
        return cls(name=name, options=given)

    def __str__(self) -> str:
        return self.name + (msgspec.json.encode(self.options, order="sorted").decode() if self.options else "")

    def __hash__(self) -> int:
        return hash(str(self))


class InputSpec(_Spec, frozen=True, kw_only=True):
    """One sample of a model's input: a picture (C, H, W), a sequence of tokens (T,), or of another shape."""

    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=1)], ...], msgspec.Meta(min_length=1)]
    dtype: InputType = "float32"  # "int64" for tokens

    def __str__(self) -> str:
        return f"{{shape: {list(self.shape)}, dtype: {self.dtype}}}"


class OptimizerSpec(_Spec, frozen=True, kw_only=True):
    """Each node's own optimizer, over its own parameters.

    ``constant`` and ``cosine`` set the learning rate of an epoch, ``one_cycle`` and ``warm_cosine`` that of a step,
    of all steps of the training (``nodes.training.optimizer``). In a federation a round counts as an epoch and a step.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Annotated[float, msgspec.Meta(ge=0)] = 0.05  # the highest of the schedule
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "constant"
    warm_up: Annotated[float, msgspec.Meta(ge=0, lt=1)] = WARM_UP  # share of the steps in which the rate rises
    factors: tuple[tuple[int, float], ...] = ()  # (epoch, factor of the learning rate from then on); 1 before
    renewed: tuple[int, ...] = ()  # epochs, from 0, that begin with a new optimizer, without the old one's momentum
    # Largest norm of the gradients of a step: of all parameters of a node together, which no other node knows, or of
    # each parameter, which is the same wherever the model is cut.
    clip_norm: Annotated[float, msgspec.Meta(gt=0)] | None = None
    clip_over: ClipOver = "node"

    def __post_init__(self) -> None:
        _check_choice("schedule", self.schedule, Schedule)
        _check_choice("clip_over", self.clip_over, ClipOver)
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"warm_up: expected a share of the steps from 0 to below 1, got {self.warm_up}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm: expected a norm above 0, or none, got {self.clip_norm}")
        if self.warm_up != WARM_UP and not self.by_step:
            raise ValueError(f"warm_up {self.warm_up}: only used with schedule one_cycle or warm_cosine")
        if self.clip_over != "node" and self.clip_norm is None:
            raise ValueError(f"clip_over {self.clip_over}: only used with clip_norm")

    @property
    def by_step(self) -> bool:
        """Whether the learning rate changes from step to step."""
        return self.schedule in ("one_cycle", "warm_cosine")


class DistillationSpec(_Spec, frozen=True, kw_only=True):
    """What a network learns of a teacher beside the labels (Hinton et al., 2015, section 2).

    The loss of a sample is (1 - ``weight``) of that of its label, and ``weight`` x ``temperature``^2 of the divergence
    of its softmax from the teacher's, both at that temperature. The factor keeps the size of the gradient.
    """

    teacher: str  # file with the weights of the job's model, whole
    temperature: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    weight: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.9  # the paper counts labels for less than the teacher

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise ValueError(
                f"distillation: expected a temperature above 0 and a weight from 0 to 1, "
                f"got {self.temperature} and {self.weight}"
            )


class DataSpec(_Spec, frozen=True, kw_only=True):
    """The data that the UE reads."""

    name: str = "digits"  # a data set of ``nodes.data.datasets``; "none" for blank pictures, as many as the counts say
    directory: str | None = None  # folder of its files; None for the embedded digits
    train_samples: int | None = None  # training pictures, each class keeping its share; None: all
    test_samples: int | None = None  # test pictures, likewise
    augment: bool = False  # crop and mirror training pictures at random


class KeepSpec(_Spec, frozen=True, kw_only=True):
    """Where nodes save their state between two training steps, from which they go on if one is started again."""

    folder: str
    every_steps: Annotated[int, msgspec.Meta(ge=1)] = 10  # counted over all epochs; the last two states are kept


class Seat(NamedTuple):
    """One node process of a job: its name, its place in the chain, and its number among several sources."""

    name: str
    node: int
    source: int


class Timing(_Spec, frozen=True, kw_only=True):
    """Seconds of one batch at a node: forward, and backward with the optimizer's step.

    ``tail_forward_s`` and ``tail_backward_s`` are those of the last layers, where they return to the UE.
    """

    forward_s: float = 0.0
    backward_s: float = 0.0
    tail_forward_s: float = 0.0
    tail_backward_s: float = 0.0

    def __post_init__(self) -> None:
        if not all(isfinite(seconds) and seconds >= 0 for seconds in msgspec.structs.astuple(self)):
            raise ValueError(f"{', '.join(self.__struct_fields__)} must be finite and not negative")

    def times(self, factor: float) -> "Timing":
        """The timing of a device that is ``factor`` times as slow."""
        return Timing(**{name: factor * getattr(self, name) for name in self.__struct_fields__})


class Device(_Spec, frozen=True, kw_only=True):
    """Speed of a node: ``slowdown`` times the CPU time on this machine, or the given ``timing``.

    A live node computes and then waits, so it can only be slower than the machine that it runs on.
    """

    slowdown: float = 1.0
    timing: Timing | None = None

    def __post_init__(self) -> None:
        if not (isfinite(self.slowdown) and self.slowdown >= 1):
            raise ValueError(f"slowdown must be finite and at least 1, got {self.slowdown}")
        if self.timing is not None and self.slowdown != 1:
            raise ValueError("give slowdown or timing, not both")


class Control(_Spec, frozen=True, kw_only=True):
    """Let split-cost messages move layers between the nodes during training (HiveMind, section IV-E, Eq. 8 and 9).

    Training steps are counted over all epochs. Raises ValueError for a number below 1, or no links at step 0.
    """

    layer_s: tuple[tuple[float, ...], ...]  # [P][L] of each layer in one training step, forward and backward, by node
    links: dict[int, tuple[LinkSpec, ...]]  # the P-1 links as reported to the nodes, by the step from which they hold
    policy: Policy = Policy()  # when updates are sent and splits change; nothing of tasks and periods is used
    every_steps: int = 1  # steps between two requests for an assignment, if the last answer has arrived
    horizon_steps: int = 100  # steps over which the cost of moving is spread

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.horizon_steps < 1:
            raise ValueError("every_steps and horizon_steps must be at least 1")
        if 0 not in self.links:
            raise ValueError(f"links: no entry for step 0, got {sorted(self.links)}")
        if not all(isfinite(seconds) and seconds >= 0 for row in self.layer_s for seconds in row):
            raise ValueError("layer_s: expected finite seconds that are not negative")


class Job(_Spec, frozen=True, kw_only=True):
    """A job for a chain of P nodes: train, and test after each epoch. A node that holds no layer relays.

    Raises ValueError for fields that contradict each other.
    """

    model: str | ModelSpec  # a torchvision classifier or ``module:callable``; with options, or their text
    input_shape: tuple[int, ...]  # (C, H, W) of a picture, or (T,) of a sequence of tokens
    classes: int  # classes that the model tells apart
    nodes: tuple[str, ...]  # names of the P nodes, from the UE on
    splits: tuple[int, ...]  # layers done when leaving node 1 to P-1: P-1 numbers that do not decrease
    # One stage a link, and with ``tail`` one for the return. Where relays lie between two parts of the model, the stage
    # of the last link before the receiving part is used, and the relays pass its wire tensors on.
    stages: tuple[StageSpec, ...]
    # U-shaped split: layers done when a task returns to the UE, which holds the others and keeps the labels. None: the
    # model ends at the last node with layers, which the labels are sent to.
    tail: int | None = None
    data: DataSpec = DataSpec()  # the data that the UE reads
    optimizer: OptimizerSpec = OptimizerSpec()  # each node's own
    epochs: int = 1  # of training; 0 only tests
    steps: int | None = None  # training steps of an epoch at most; None: the whole data set
    batch_size: int = 128  # pictures of a batch
    microbatches: int = 1  # parts into which a batch is divided for pipelining
    window: int = 4  # batches in flight during inference
    label_smoothing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0  # share of the target spread over all classes
    # The UE computes the logits of the teacher, and sends them in training with the labels; None: labels alone.
    distillation: DistillationSpec | None = None
    # bfloat16: layers compute under torch's autocast, parameters stay in float32. Values cross a cut in the type in
    # which they were computed; a stage gets float32.
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"  # of parameters and pictures
    seed: int = 0  # of parameters, order, augmentation and stochastic layers
    threads: int | None = None  # Torch threads of a node; None: torch's own choice
    device: str = "cpu"  # Torch device of every node
    input_type: InputType = "float32"  # "int64" for tokens
    payload_bytes: PayloadBytes = 1 << 26  # largest payload of a message
    devices: tuple[Device, ...] = ()  # speed of each node, or none: each as fast as the machine
    # New splits by the training step from which they hold; None: layers stay where they are.
    moves: dict[int, tuple[int, ...]] | None = None
    control: Control | None = None  # split control that decides on moves instead
    weights: str | None = None  # file of parameters and buffers by name; those that fit initialise the model
    # Epochs after which every node keeps its state. After training, assignment k uses the k-th kept state (from 1).
    members: tuple[int, ...] = ()
    # UEs. With several, the first of two nodes stands for all of them: each has an equal part of the pictures and its
    # own copy of the UE's part; they share one link and train the server's part in turn.
    sources: int = 1
    checkpoint: str | None = None  # folder in which each node saves its part after every epoch
    keep: KeepSpec | None = None  # save the state of training steps too

    def __post_init__(self) -> None:
        links = len(self.nodes) - 1
        if links < 0 or len(set(self.nodes)) != len(self.nodes):
            raise ValueError(f"nodes: expected one or more different names, got {list(self.nodes)}")
        if len(self.splits) != links or len(self.stages) != links + (self.tail is not None):
            returns = "" if self.tail is None else ", and one stage more for the return"
            raise ValueError(
                f"{links + 1} nodes need {links} splits and stages{returns}, "
                f"got {len(self.splits)} and {len(self.stages)}"
            )
        if len(self.devices) not in (0, links + 1):
            raise ValueError(f"{links + 1} nodes need {links + 1} devices or none, got {len(self.devices)}")
        if list(self.splits) != sorted(self.splits) or any(split < 0 for split in self.splits):
            raise ValueError(f"splits must not decrease, got {list(self.splits)}")
        if any(len(splits) != links for splits in (self.moves or {}).values()):
            raise ValueError(f"moves: {links + 1} nodes need {links} splits at each step")
        if self.control is not None:
            if self.moves is not None or not links:
                raise ValueError("control: needs two nodes or more, and excludes moves")
            if len(self.control.layer_s) != links + 1 or any(len(row) != links for row in self.control.links.values()):
                raise ValueError(f"control: {links + 1} nodes need {links + 1} rows of layer_s and {links} links")
        if min(self.batch_size, self.microbatches, self.window) < 1 or self.batch_size % self.microbatches:
            raise ValueError("batch_size, microbatches and window must be at least 1, and microbatches divide it")
        if self.sources < 1 or (self.sources > 1 and (links != 1 or self.microbatches > 1 or self.members)):
            raise ValueError(
                f"sources: {self.sources}; at least 1, and several need two nodes, one microbatch and no members"
            )
        if self.members and self.mobile:
            raise ValueError("members: kept states need layers that stay; give neither moves nor control")
        if self.distillation is not None and (self.mobile or self.tail is not None):
            raise ValueError("distillation: needs layers that stay, and a model that ends at the last node")
        self._check_saving()
        self._check_tail()
        self._check_numerics()

    def _check_saving(self) -> None:
        if self.sources > 1 and self.checkpoint:
            raise ValueError("sources: several sources cannot be checkpointed; give no checkpoint")
        if self.keep and not self.keepable:
            raise ValueError("keep: needs one source and layers that stay")

    def _check_tail(self) -> None:
        if self.tail is None:
            return
        if not self.splits or not self.splits[0] < self.tail or self.splits[-1] > self.tail:
            raise ValueError(
                f"tail {self.tail}: expected more layers than the UE's first ones, and no less than the last split; "
                f"splits are {list(self.splits)}"
            )
        if self.mobile or self.members:
            raise ValueError(f"tail {self.tail}: layers that return to the UE stay there; give no moves and no members")

    def _check_numerics(self) -> None:
        _check_choice("precision", self.precision, Precision)
        _check_choice("memory_format", self.memory_format, MemoryFormat)
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing: expected a share from 0 to 1, got {self.label_smoothing}")
        if self.memory_format == "channels_last" and len(self.input_shape) != 3:
            raise ValueError(f"memory_format: channels_last needs pictures (C, H, W), got {list(self.input_shape)}")

    @property
    def input(self) -> InputSpec:
        """One sample of the model's input."""
        return InputSpec(shape=self.input_shape, dtype=self.input_type)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Layers done at each cut: ``splits``, and where tasks return to the UE, ``tail``."""
        return self.splits if self.tail is None else (*self.splits, self.tail)

    @property
    def mobile(self) -> bool:
        """Whether layers may move between nodes during training."""
        return self.moves is not None or self.control is not None

    @property
    def keepable(self) -> bool:
        """Whether the nodes' states before a training step fit each other: one source, and layers that stay."""
        return self.sources == 1 and not self.mobile

    @property
    def seats(self) -> tuple[Seat, ...]:
        """All node processes, the sources first."""
        if self.sources == 1:
            return tuple(Seat(name, index, 0) for index, name in enumerate(self.nodes))
        sources = [Seat(f"{self.nodes[0]}{source + 1}", 0, source) for source in range(self.sources)]
        return (*sources, Seat(self.nodes[1], 1, 0))

    @property
    def connections(self) -> tuple[tuple[Seat, Seat], ...]:
        """Pairs of neighbours, the upstream node first."""
        if self.sources == 1:
            return tuple(pairwise(self.seats))
        *sources, server = self.seats
        return tuple((source, server) for source in sources)

    def direction_of(self, node: str) -> str:
        """The direction in which the next node sees ``node``: its name where there are several sources."""
        return "previous" if self.sources == 1 else node
