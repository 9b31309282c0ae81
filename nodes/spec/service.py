"""Specification of an inference service, the same for all its nodes."""

import msgspec

from nodes.spec.job import DataSpec, Granularity
from nodes.spec.policy import Policy


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the UE starts tasks.

    Args:
        tasks: Number of tasks.
        period_s: Seconds from one start to the next; None: start each as soon as ``window`` permits.
        window: Tasks in flight at most.
        after_update: Start each task only after a split update that no other task has used, as HiveMind does. Without
            effect where the route is the UE alone.

    Raises:
        ValueError: A number out of range.
    """

    tasks: int
    period_s: float | None = None
    window: int = 1
    after_update: bool = False

    def __post_init__(self) -> None:
        if self.tasks < 0 or self.window < 1 or not (self.period_s is None or self.period_s > 0):
            raise ValueError("tasks must be at least 0, window at least 1 and period_s above 0")


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inference tasks of one picture each; every node holds the whole model.

    Args:
        model: A torchvision classifier, or ``module:callable``.
        input_shape: (C, H, W) of a picture.
        classes: Classes that the model tells apart.
        pace: When tasks start.
        policy: When splits change.
        granularity: What counts as a layer, see ``nodes.model.chain``.
        deliver: Send the result on to the last node of the route.
        paced: Let each call take as long as the node's layer costs say, on a machine that is faster.
        data: Where the pictures come from.
        seed: Seed of parameters and data.
        threads: Torch threads of a node; None: torch's own choice.
        device: Torch device of every node.
        payload_bytes: Largest payload of a message.
    """

    model: str
    input_shape: tuple[int, int, int]
    classes: int
    pace: Pace
    policy: Policy = Policy()
    granularity: Granularity = "op"
    deliver: bool = False
    paced: bool = True
    data: DataSpec = DataSpec()
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    payload_bytes: int = 1 << 26
