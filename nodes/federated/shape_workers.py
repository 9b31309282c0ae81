"""Workers of a federation in virtual time: shapes alone, each worked out once, then only renumbered.

All clients have one network, so one part of it stands for theirs and one for the server's, on the meta device.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import numpy as np
import torch

from nodes.data.images import Dataset, Indices
from nodes.federated.client_segment import SharingSegment
from nodes.federated.client_worker import Adopted, Answers, ClientData, indices_of, job_of
from nodes.federated.cloud import CloudWorker
from nodes.federated.edge.joint_step import JointReply, JointSegment, joint_reply
from nodes.federated.edge.returning import JointStart, ReturningSegment
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.schemes import Scheme, Update
from nodes.federated.shared_state import shared_state
from nodes.model.boundary import Tensors
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.training.segment import TaskMessage
from nodes.training.source import TailGradient
from nodes.wire.messages import Activation, ClientModel, ClientUpdate, EdgeUpdate, GlobalModel, Gradient, Result

TRIED = 7  # pictures of a batch that is tried; so many of anything else are unlikely


class ClientShapes:
    """The part that every client of ``federation`` has, and how the pictures of ``data`` are divided."""

    def __init__(self, federation: Federation, data: Dataset) -> None:
        job = self.job = job_of(federation)
        self._segment = SharingSegment(job, 0, meta=True)
        self._tail = None if job.tail is None else SharingSegment(job, 2, meta=True)
        self._parts = [self._segment, *([self._tail] if self._tail else [])]
        self._finished: dict[Any, TaskMessage] = {}
        self._batch_norm = federation.batch_norm
        self.layers = sum(len(part.names) for part in self._parts)
        self.mean_samples = len(data.train) / federation.clients
        self._tasks: dict[tuple[int, bool], TaskMessage] = {}
        parts, tests = indices_of(federation, data)
        self.samples = [len(part) for part in parts]
        self.labels = [data.test.labels[part] for part in tests]

    @functools.cached_property
    def state(self) -> Tensors:
        """The part's parameters and buffers that a scheme shares."""
        return shared_state(self._parts, self._batch_norm)

    def task(self, size: int, train: bool) -> TaskMessage:
        """What ``size`` pictures come to."""
        if (size, train) not in self._tasks:
            pictures = empty_samples(self.job, size)
            labels = _labels(size) if train and self._tail is None else None
            self._tasks[size, train] = self._segment.source(pictures, labels, assignment=0, step=0, train=train)
        return self._tasks[size, train]

    def finish(self, message: Activation) -> TaskMessage:
        """What the last layers make of a batch that has returned."""
        assert self._tail is not None
        if (key := _key(message)) not in self._finished:
            labels = _labels(self.job.batch_size) if message.train else None
            self._finished[key] = self._tail.forward(msgspec.structs.replace(message, labels=labels))
        return msgspec.structs.replace(self._finished[key], assignment=message.assignment, step=message.step)


class ShapeClient:
    """The worker of client ``client`` without data; see ``nodes.federated.client_worker.ClientWorker``."""

    def __init__(self, federation: Federation, client: int, shapes: ClientShapes) -> None:
        self._shapes, self._client, self._labels = shapes, client, shapes.labels[client]
        self.steps, self.layers = 0, shapes.layers
        test_batches = -(-len(self._labels) // shapes.job.batch_size)
        self.data = ClientData(shapes.samples[client], shapes.mean_samples, test_batches)

    def train(self, round_number: int, number: int) -> TaskMessage:
        """What its ``number``-th batch of all comes to."""
        job = self._shapes.job
        reply = self._shapes.task(job.batch_size, train=True)
        self.steps += isinstance(reply, Gradient)
        return msgspec.structs.replace(reply, assignment=round_number, step=number * job.sources + self._client)

    def backward(self, message: Gradient) -> Gradient:
        """Take a gradient back through its part."""
        self.steps += 1
        return msgspec.structs.replace(message, tensors={})

    def test(self, round_number: int, batch: int) -> TaskMessage | Answers:
        """What test batch ``batch`` comes to."""
        reply = self._shapes.task(len(self._tested(batch)), train=False)
        reply = msgspec.structs.replace(reply, assignment=round_number, step=batch)
        return self.answers(reply) if isinstance(reply, Result) else reply

    def answers(self, result: Result) -> Answers:
        """All answers by class, none of them correct."""
        total = torch.from_numpy(np.bincount(self._tested(result.step), minlength=self._shapes.job.classes))
        return Answers(torch.zeros_like(total), total)

    def finish(self, message: Activation) -> TailGradient | Answers:
        """Run a batch that has returned through its last layers."""
        if not message.train:
            return self.tested(message)
        reply = self._shapes.finish(message)
        assert isinstance(reply, Gradient)
        return TailGradient(msgspec.structs.replace(reply, metrics={"count": reply.metrics["count"]}))

    def tested(self, returned: Activation | Result) -> Answers:
        """What has returned of a test batch comes to."""
        result = self._shapes.finish(returned) if isinstance(returned, Activation) else returned
        assert isinstance(result, Result)
        return self.answers(result)

    def give(self, round_number: int) -> ClientUpdate:
        """Its part."""
        return ClientUpdate(round=round_number, samples=self.data.samples, tensors=self._shapes.state)

    def adopt(self, model: ClientModel) -> Adopted:
        """Hold nothing."""
        return Adopted()

    def borrowing(self, model: ClientModel | None) -> AbstractContextManager[None]:
        """Hold nothing."""
        return nullcontext()

    def _tested(self, batch: int) -> Indices:
        size = self._shapes.job.batch_size
        labels: Indices = self._labels[batch * size : (batch + 1) * size]
        return labels


class ShapeJoint(JointSegment):
    """A server part on the meta device, whose replies to messages of one shape differ in their numbers alone."""

    def __init__(self, job: Job, index: int, scheme: Scheme) -> None:
        super().__init__(job, index, meta=True, scheme=scheme)
        self._replies: dict[Any, TaskMessage] = {}
        self._joined: dict[Any, Gradient] = {}

    def forward(self, message: Activation) -> TaskMessage:
        """As with data."""
        key = _key(message)
        if key in self._replies:
            self.steps += message.train
        else:
            self._replies[key] = super().forward(message)
        reply = self._replies[key]
        assert isinstance(reply, Gradient | Result)
        return msgspec.structs.replace(reply, assignment=message.assignment, step=message.step)

    def joint(self, messages: Sequence[Activation], weights: Sequence[float], positions: int = 0) -> JointReply:
        """As with data, worked out for two clients at most: what returns to another has the same shape."""
        key = _key(messages[0]), len(messages) > 1, positions
        if key in self._joined:
            self.steps += 1
        else:
            self._joined[key] = super().joint(messages[:2], weights[:2], positions).gradients[0]
        gradient = self._joined[key]
        gradients = [
            msgspec.structs.replace(gradient, assignment=message.assignment, step=message.step) for message in messages
        ]
        return joint_reply(gradients, int(gradient.metrics["count"]), positions, self._scheme.through, 0.0)

    def adopt(self, tensors: Tensors) -> None:
        """Hold nothing."""

    def load_training_state(self, tensors: Tensors) -> None:
        """Hold nothing."""


class ShapeReturning(ReturningSegment):
    """The server part of a U-shaped split on the meta device: as ``ShapeJoint``."""

    def __init__(self, job: Job, index: int, scheme: Scheme) -> None:
        super().__init__(job, index, meta=True, scheme=scheme)
        self._made: dict[Any, TaskMessage] = {}
        self._started: dict[Any, Activation] = {}
        self._returned_to_client: Gradient | None = None

    def forward(self, message: Activation) -> TaskMessage:
        """As with data."""
        if (key := _key(message)) not in self._made:
            self._made[key] = super().forward(message)
        return msgspec.structs.replace(self._made[key], assignment=message.assignment, step=message.step)

    def backward(self, message: Gradient) -> Gradient:
        """As with data."""
        return self._ended([message], lambda first: super(ShapeReturning, self).backward(*first))[0]

    def start_joint(self, messages: Sequence[Activation], positions: int = 0) -> JointStart:
        """As with data, worked out for two clients at most."""
        if (key := _key(messages[0])) not in self._started:
            self._started[key] = super().start_joint(messages[:2], positions).activations[0]
        made = [
            msgspec.structs.replace(self._started[key], assignment=message.assignment, step=message.step)
            for message in messages
        ]
        return JointStart(made, float(len(made) * self.job.batch_size))

    def end_joint(self, messages: Sequence[Gradient], weights: Sequence[float], positions: int = 0) -> JointReply:
        """As with data, worked out for two clients at most."""

        def end(first: list[Gradient]) -> Gradient:
            gradients = super(ShapeReturning, self).end_joint(first, weights[: len(first)], positions).gradients
            return gradients[0]

        gradients = self._ended(messages, end)
        return joint_reply(gradients, int(gradients[0].metrics["count"]), positions, "cut", 0.0)

    def _ended(self, messages: Sequence[Gradient], end: Callable[[list[Gradient]], Gradient]) -> list[Gradient]:
        """What returns for ``messages``; ``end`` works it out from those for which a task was worked out."""
        if self._returned_to_client is None:
            steps = [step for step, _ in self._pending]
            first = [msgspec.structs.replace(one, step=step) for one, step in zip(messages, steps, strict=False)]
            self._returned_to_client = end(first)
        else:
            self.steps += 1
        same = self._returned_to_client
        return [msgspec.structs.replace(same, assignment=one.assignment, step=one.step) for one in messages]

    def adopt(self, tensors: Tensors) -> None:
        """Hold nothing."""

    def load_training_state(self, tensors: Tensors) -> None:
        """Hold nothing."""


class ShapeEdge(EdgeWorker):
    """An edge server's worker without data: one part stands for all copies."""

    def _parts(self, clients: Sequence[int], copies: bool) -> dict[int, JointSegment]:
        kind = ShapeJoint if self._job.tail is None else ShapeReturning
        return dict.fromkeys(clients, kind(self._job, 1, self._scheme))

    def aggregate(self, round_number: int, trained: Sequence[Update]) -> ClientModel:
        """A part like those that were given."""
        return ClientModel(round=round_number, tensors=trained[0].state if self._shares else {})


class ShapeCloud(CloudWorker):
    """The cloud's worker without data."""

    def aggregate(self, updates: Sequence[EdgeUpdate], edges: Sequence[int]) -> GlobalModel:
        """Parts like those that were given."""
        trained = next((update for update in updates if update.samples), updates[0])
        return GlobalModel(round=trained.round, server=trained.server, client=trained.client)


def empty_samples(job: Job, count: int) -> torch.Tensor:
    """``count`` inputs of the model without data."""
    return torch.empty(count, *job.input_shape, dtype=getattr(torch, job.input_type), device="meta")


def check_joint(job: Job, scheme: Scheme) -> None:
    """Raise ProtocolError if the server of ``job`` cannot take a joint step on two clients' batches; by shapes alone.

    What a stage fails with that cannot do without values is its own.
    """
    pictures = empty_samples(job, TRIED)
    labels = None if job.tail is not None else _labels(TRIED)
    sent = SharingSegment(job, 0, meta=True).source(pictures, labels, assignment=0, step=0, train=True)
    if isinstance(sent, Activation) and job.tail is not None:
        part = ReturningSegment(job, 1, meta=True, scheme=scheme)
        part.start_joint([sent] * 2, scheme.averaged_positions(TRIED))
    elif isinstance(sent, Activation):
        JointSegment(job, 1, meta=True, scheme=scheme).joint([sent] * 2, [0.5] * 2, scheme.averaged_positions(TRIED))


def _labels(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.int64, device="meta")


def _key(message: Activation) -> Any:
    shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in message.tensors.items())
    return shapes, message.train, tuple(message.views.items()), tuple(message.scalars.items())
