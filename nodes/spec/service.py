"""Specification of an inference service, the same for all its nodes."""

import msgspec

from nodes.spec.job import DataSpec, Granularity, InputSpec, InputType, ModelSpec, PayloadBytes
from nodes.spec.policy import Policy


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the UE starts tasks. Raises ValueError for a number out of range."""

    tasks: int  # number of tasks
    period_s: float | None = None  # seconds from one start to the next; None: start each as soon as ``window`` permits
    window: int = 1  # tasks in flight at most
    # Start each task only after a split update that no other task has used, as HiveMind does. Without effect where
    # the route is the UE alone.
    after_update: bool = False

    def __post_init__(self) -> None:
        if self.tasks < 0 or self.window < 1 or not (self.period_s is None or self.period_s > 0):
            raise ValueError("tasks must be at least 0, window at least 1 and period_s above 0")


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference tasks of one sample each; every node holds the whole model."""

    model: str | ModelSpec  # a torchvision classifier or ``module:callable``, with options if it takes any
    input_shape: tuple[int, ...]  # (C, H, W) of a picture, or (T,) of a sequence of tokens
    classes: int  # classes that the model tells apart
    pace: Pace  # when tasks start
    policy: Policy = Policy()  # when splits change
    granularity: Granularity = "op"  # what counts as a layer, see ``nodes.model.chain``
    deliver: bool = False  # send the result on to the last node of the route
    paced: bool = True  # let each call take as long as the node's layer costs say, on a machine that is faster
    data: DataSpec = DataSpec()  # where the pictures come from
    seed: int = 0  # seed of parameters and data
    threads: int | None = None  # Torch threads of a node; None: torch's own choice
    device: str = "cpu"  # Torch device of every node
    input_type: InputType = "float32"  # "int64" for tokens
    payload_bytes: PayloadBytes = 1 << 26  # largest payload of a message

    @property
    def input(self) -> InputSpec:
        """One sample of the model's input."""
        return InputSpec(shape=self.input_shape, dtype=self.input_type)
