"""Server part of a U-shaped split: what it makes returns to the clients, which hold the last layers and the labels.

A joint step of several clients has two halves. The first runs their batches as one, the second takes the gradients of
their own mean losses back, each times its client's weight. In between the clients train their last layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import torch

from nodes.federated.edge.joining import Batch, check_rows, joined_batch, rows_in, rows_of
from nodes.federated.edge.joint_step import JointReply, JointSegment, joint_reply
from nodes.model.chain import Moment
from nodes.training.segment import TaskMessage
from nodes.wire.messages import Activation, Gradient


class JointStart(NamedTuple):
    """What the first half of a joint step returns to each client, and the samples that it took forward."""

    activations: Sequence[Activation]
    forward_samples: float


class ReturningSegment(JointSegment):
    """A server part between the clients' first layers and their last."""

    def forward(self, message: Activation) -> TaskMessage:
        if message.train:
            self._pending.clear()  # of a client that has left
        return super().forward(message)

    def start_joint(self, messages: Sequence[Activation], positions: int = 0) -> JointStart:
        """Run several clients' batches as one; gradients of the first ``positions`` will be averaged.

        Raises ProtocolError for boundaries that cannot be joined.
        """
        self._pending.clear()
        arrived = [self._arrived(message) for message in messages]
        rows = rows_in([values for values, _ in arrived])
        if positions:
            codes = [received.leaves for _, received in arrived]
            check_rows([Batch(*pair, torch.empty(0), 0.0) for pair in zip(messages, codes, strict=True)], rows)
        moment = Moment(self.job.seed, messages[0].step)
        assert self._part is not None
        self._part.train(True)
        with torch.enable_grad():
            made = self._compute(joined_batch([values for values, _ in arrived], rows), moment)
            parts = [rows_of(made, number, rows, len(arrived)) for number in range(len(arrived))]
            triples = zip(messages, parts, [received for _, received in arrived], strict=True)
            return JointStart([self._send(*triple) for triple in triples], float(rows * len(arrived)))

    def end_joint(self, messages: Sequence[Gradient], weights: Sequence[float], positions: int = 0) -> JointReply:
        """Take the clients' gradients back and take one step of the optimizer.

        ``weights`` are factors of the clients' mean losses. Gradients at the cut of the first ``positions`` are
        averaged (``Scheme.through`` "cut"). A client of the first half without a message has left.
        """
        began = self._time()
        pending = self._back_propagated(messages, weights)
        seconds = self._time() - began
        self._step(None)
        size = int(messages[0].metrics["count"])
        own, shared = self._returns([one.received.leaves for one in pending], weights, positions, size)
        gradients = [
            Gradient(
                assignment=message.assignment,
                step=message.step,
                metrics=message.metrics,
                tensors=mine | shared,
                strides=(not positions and one.received.strides) or msgspec.UNSET,
            )
            for message, mine, one in zip(messages, own, pending, strict=True)
        ]
        return joint_reply(gradients, size, positions, self._scheme.through if positions else "cut", seconds)
