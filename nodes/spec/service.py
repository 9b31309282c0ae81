"""What is asked of the nodes of an inference service? One description for all, beside what each knows itself."""

import msgspec

from nodes.spec.job import DataSpec, Granularity
from nodes.spec.policy import Policy


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the UE starts tasks: one each ``period_s``, or as soon as it may; at most ``window`` are under way.

    With ``after_update`` each waits for an update that no other task has used, as HiveMind's do; in a route of
    the UE alone none does.
    """

    tasks: int
    period_s: float | None = None
    window: int = 1
    after_update: bool = False

    def __post_init__(self) -> None:
        if self.tasks < 0 or self.window < 1 or not (self.period_s is None or self.period_s > 0):
            raise ValueError("tasks must be at least 0, window at least 1 and period_s above 0")


class Service(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks of one picture each for a model that every node holds whole.

    ``paced`` lets each call take as long as the node's layer costs say, on a machine that is faster.
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
