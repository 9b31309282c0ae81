"""Costs of a training step as one node knows them, and the split that it would choose.

HiveMind, section IV-E: a node's cost of a training step is that of its layers forward and backward, and of its incoming
link in both directions, with the time to move parameters over it where its split changes (Eq. 8-9); the rest is as in
inference. The paper does not say when it is decided (``roles``). After a move nodes propose the present splits until
they have received split costs that reckon with it.

Stages are taken for the identity: bytes that they save or add are not reckoned with.
"""

from math import inf
from typing import NamedTuple

from nodes.costs.workload import Inspected, first_used
from nodes.errors import ModelError, ProtocolError
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain
from nodes.model.factory import outline
from nodes.spec.job import Control, Job, OptimizerSpec
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import LinkEstimates
from nodes.splitting.search import move_s, transfer_s
from nodes.wire.messages import SplitCost
from nodes.wire.split_costs import set_downstream


class StepBytes(NamedTuple):
    """What one training step sends, and what moving layers does, in bytes."""

    crossing: list[int]  # [L+1] downstream at each boundary; nothing once all layers are done
    gradients: list[int]  # [L+1] upstream; as many as came down, for the input none
    parameters: list[int]  # [L] with the optimizer's state
    cuttable: list[bool]  # [L+1] whether the model can be cut there in training


def step_bytes(job: Job) -> StepBytes:
    """Those of ``job``. Raises ModelError."""
    chain = outline(job.model, job.classes, job.input_shape, dtype=job.input_type)
    looked_at = Inspected(chain.model, job.input_shape, dtype=job.input_type)
    layers, size = range(len(chain)), 1 + moments(job.optimizer)
    crossing = [job.batch_size * boundary_bytes(chain.shapes(index)) for index in layers] + [0]
    parts = [looked_at.part(index, index + 1) for index in layers]
    return StepBytes(
        crossing=crossing,
        gradients=[0, *crossing[1:]],
        parameters=[
            sum(size * tensor.nbytes for tensor in own) + sum(buffer.nbytes for buffer in part.buffers())
            for own, part in zip(first_used(parts), parts, strict=True)
        ],
        cuttable=[_cuttable(chain, index) for index in range(len(chain) + 1)],
    )


def moments(optimizer: OptimizerSpec) -> int:
    """How many numbers it keeps for each parameter."""
    return 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)


def _cuttable(chain: Chain, index: int) -> bool:
    try:
        if 0 < index < len(chain):
            chain.check_part(0, index)
    except ModelError:
        return False
    return True


class TrainingControl:
    """What one node, of the neighbour ``upper`` if it has one, knows of costs, and where it would cut."""

    def __init__(self, control: Control, index: int, sizes: StepBytes, upper: str) -> None:
        if len(control.layer_s[index]) != len(sizes.parameters):
            raise ModelError(f"control: layer_s has {len(control.layer_s[index])} layers of {len(sizes.parameters)}")
        self.every_steps = control.every_steps
        self._index, self._sizes, self._upper = index, sizes, upper
        self._split = SplitControl(control.layer_s[index], control.policy)
        self._horizon_steps = control.horizon_steps
        self._schedule = dict(sorted(control.links.items()))
        self._links = LinkEstimates(sizes.crossing, {}, control.policy)
        self._heard = False
        self.reach(0)

    def reach(self, step: int) -> None:
        """Learn what is told of the incoming link until training step ``step``."""
        for due in [due for due in self._schedule if due <= step]:
            links = self._schedule.pop(due)
            if self._index:
                self._links.set_link(self._upper, links[self._index - 1])

    def observe(self, wire_bytes: float, wire_s: float, now: float) -> None:
        """Take note of a transfer over the incoming link."""
        self._links.observe(self._upper, wire_bytes, wire_s, now)

    def hear(self, message: SplitCost) -> None:
        """Take the costs that the neighbour downstream tells. Raises ProtocolError."""
        set_downstream(self._split, message)

    def moved(self) -> None:
        """What was worked out before layers moved says no more."""
        self._heard = False

    def stop(self, done: int, held: int) -> int:
        """Layers done when a task should leave that came with ``done``; ``held`` of them at present."""
        if not 0 <= done < len(self._split.stops):
            raise ProtocolError(f"{done} layers were proposed, of {len(self._sizes.parameters)}")
        return self._split.stops[done] if self._heard else max(done, held)

    def update(self, splits: tuple[int, ...], now: float) -> list[float] | None:
        """Work out the split anew, layers being where ``splits`` say; the split costs if they are to be told."""
        self._split.keep_stop(splits[self._index] if self._index < len(splits) else self._split.layers)
        free = [0.0] * len(self._sizes.crossing)  # the UE has no incoming link
        self._split.update(self._link_s(splits[self._index - 1], now) if self._index else free)
        self._heard = True
        return self._split.next_update(now)

    def _link_s(self, current_split: int, now: float) -> list[float]:
        """Costs [L+1] of the incoming link in a step, with its share of the moves."""
        link, sizes = self._links.link(self._upper, now), self._sizes
        rate_bps = inf if link.rate_bps is None else link.rate_bps
        there_and_back_s = transfer_s(sizes.crossing, rate_bps, link.delay_s, sizes.gradients)
        moves_s = move_s(sizes.parameters, current_split, rate_bps, link.delay_s)
        return [
            trip_s + once_s / self._horizon_steps if cuttable else inf
            for trip_s, once_s, cuttable in zip(there_and_back_s, moves_s, sizes.cuttable, strict=True)
        ]
