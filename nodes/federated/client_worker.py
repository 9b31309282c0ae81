"""Worker of a client: its part of the network on its own pictures, round after round."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
import torch

from nodes.data.images import Dataset, Indices, Pictures
from nodes.data.partitioning import partition, partition_iid
from nodes.federated.client_segment import SharingSegment, exchange, keep, resume
from nodes.federated.schemes import Scheme, scheme_of
from nodes.federated.shared_state import adopt_shared, shared_state
from nodes.runtime.actions import Compute
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.training.keeping.state import load_segment_state, plain_attributes, segment_state, set_attributes
from nodes.training.segment import TaskMessage
from nodes.training.source import Source, Tail, TailGradient, logits_of
from nodes.wire.messages import Activation, ClientModel, ClientUpdate, Gradient, Result


class ClientData(NamedTuple):
    """Pictures of a client and of the mean client, its test batches, and training steps begun before."""

    samples: int
    mean_samples: float
    test_batches: int
    begun: int = 0


class Answers(NamedTuple):
    """Correct answers and all answers of a test batch, by class [C]."""

    correct_by_class: torch.Tensor
    total_by_class: torch.Tensor


class Adopted(NamedTuple):
    """The worker holds the tensors that it was given."""


class ClientWorker:
    """The worker of client ``client``; ``data`` are all pictures of the federation."""

    def __init__(self, federation: Federation, client: int, data: Dataset) -> None:
        own, tests = pictures_of(federation, client, data)
        self.client = client
        job = job_of(federation)
        self.segment = SharingSegment(job, 0)
        self._parts = [self.segment, *([] if job.tail is None else [SharingSegment(job, 2)])]
        self.tail = None if job.tail is None else Tail(self._parts[-1])
        self.layers = sum(len(part.names) for part in self._parts)
        scheme = self._scheme = scheme_of(federation)
        if type(scheme).adjust_gradients is not Scheme.adjust_gradients:
            for part in self._parts:
                part.adjust_gradients = scheme.adjust_gradients
        self._batch_norm = federation.batch_norm
        own_data = Dataset(data.name, data.classes, own, tests)
        self._source = Source(self.segment, own_data, source=client, by_step=False, tail=self.tail)
        self._samples, self._mean_samples = len(own), len(data.train) / federation.clients
        self._labels: dict[int, torch.Tensor] = {}  # of test batches under way
        self._begun = 0
        self._classes = len(data.classes)
        self._round = -1
        self._path = None if federation.folder is None else Path(federation.folder) / f"client-{client}.pt"
        if self._path is not None and self._path.exists():
            self._begun = resume(self._parts, self._path)

    @property
    def data(self) -> ClientData:
        """What the client's role needs to know of its pictures."""
        return ClientData(self._samples, self._mean_samples, self._source.schedule.test_batches, self._begun)

    @property
    def steps(self) -> int:
        """How many steps its optimizer has taken."""
        return self.segment.steps

    def train(self, round_number: int, number: int) -> TaskMessage:
        """Run training batch ``number`` of all rounds through the client's part; a Gradient if the model ends there."""
        if round_number != self._round:
            self._round = round_number
            for part in self._parts:
                part.begin_round(round_number)
            if self.tail:
                self.tail.clear()
        epoch, batch = divmod(number, self._source.schedule.train_steps)
        reply = self._source.train(epoch, batch, 0, None)
        self._begun = number + 1
        if isinstance(reply, Gradient):
            self._keep()
        return msgspec.structs.replace(reply, assignment=round_number)

    def backward(self, message: Gradient) -> Gradient:
        """Take a gradient back through the client's part."""
        reply = self._source.backward(message)
        self._keep()
        return reply

    def finish(self, message: Activation) -> TailGradient | Answers:
        """Run a batch that has returned through the client's last layers."""
        assert self.tail is not None
        return self.tail.train(message) if message.train else self.tested(message)

    def test(self, round_number: int, batch: int) -> TaskMessage | Answers:
        """Run test batch ``batch`` through the client's part."""
        pictures, self._labels[batch] = self._source.draw(train=False, epoch=0, batch=batch)
        reply = self.segment.source(pictures, None, assignment=round_number, step=batch, train=False)
        return self.answers(reply) if isinstance(reply, Result) else reply

    def answers(self, result: Result) -> Answers:
        """Compare the result of a test batch with its labels."""
        labels = self._labels.pop(result.step, None)
        logits = logits_of(result, labels)
        assert labels is not None
        found = logits.argmax(1).to(labels.device)
        correct = torch.bincount(labels[found == labels], minlength=self._classes)
        return Answers(correct, torch.bincount(labels, minlength=self._classes))

    def tested(self, returned: Activation | Result) -> Answers:
        """Compare what has returned of a test batch with its labels."""
        if self.tail and isinstance(returned, Activation):
            returned = self.tail.infer(returned)
        assert isinstance(returned, Result)
        return self.answers(returned)

    def give(self, round_number: int) -> ClientUpdate:
        """Copy what the client shares of its part as it is now."""
        shared = shared_state(self._parts, self._batch_norm)
        return ClientUpdate(round=round_number, samples=self._samples, tensors=shared)

    def adopt(self, model: ClientModel) -> Adopted:
        """Go on from the clients' part that the server sent."""
        adopt_shared(self._parts, model.tensors, self._batch_norm)
        return Adopted()

    @contextmanager
    def borrowing(self, model: ClientModel | None) -> Iterator[None]:
        """Test with the clients' part ``model`` instead of its own; a step that is under way goes on afterwards."""
        own = exchange(self._parts, model.tensors if model else {})
        try:
            yield
        finally:
            exchange(self._parts, own)

    def everything(self) -> dict[str, Any]:
        """All that ``go_on`` needs between two rounds."""
        parts = [segment_state(part) for part in self._parts]
        return {"parts": parts, "begun": self._begun, "scheme": plain_attributes(self._scheme)}

    def go_on(self, saved: dict[str, Any]) -> None:
        """Continue from ``everything`` of the worker of the same client."""
        for part, state in zip(self._parts, saved["parts"], strict=True):
            load_segment_state(part, state)
        self._begun = saved["begun"]
        set_attributes(self._scheme, saved["scheme"])

    def _keep(self) -> None:
        """Save the client's state after a step, where the federation asks for it."""
        if self._path is not None:
            keep(self._parts, self._path, self._begun)


@dataclass(frozen=True)
class TrainBatch(Compute):
    """Run training batch ``number`` of all rounds through the client's part; a Gradient if the model ends there."""

    round: int
    number: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: ClientWorker) -> TaskMessage:
        return worker.train(self.round, self.number)


@dataclass(frozen=True)
class ReturnGradient(Compute):
    """Take a gradient back through the client's part."""

    gradient: Gradient

    def run(self, worker: ClientWorker) -> Gradient:
        return worker.backward(self.gradient)


@dataclass(frozen=True)
class TestBatch(Compute):
    """Run a test batch through the client's part."""

    round: int
    batch: int
    runs_forward: ClassVar[bool] = True

    def run(self, worker: ClientWorker) -> TaskMessage | Answers:
        return worker.test(self.round, self.batch)


@dataclass(frozen=True)
class CountAnswers(Compute):
    """Compare the result of a test batch with its labels."""

    result: Result

    def run(self, worker: ClientWorker) -> Answers:
        return worker.answers(self.result)


@dataclass(frozen=True)
class GivePart(Compute):
    """Copy the client's part."""

    round: int

    def run(self, worker: ClientWorker) -> ClientUpdate:
        return worker.give(self.round)


@dataclass(frozen=True)
class AdoptPart(Compute):
    """Go on from the clients' part that the server sent."""

    model: ClientModel

    def run(self, worker: ClientWorker) -> Adopted:
        return worker.adopt(self.model)


def job_of(federation: Federation) -> Job:
    """The job as its nodes' parts need it: steps are numbered apart for each client, rounds are its epochs."""
    job, size = federation.job, scheme_of(federation).batch_size(federation.job.batch_size)
    return msgspec.structs.replace(
        job, sources=federation.clients, epochs=federation.rounds, steps=None, batch_size=size
    )


def pictures_of(federation: Federation, client: int, data: Dataset) -> tuple[Pictures, Pictures]:
    """A client's training pictures, and its random part of the test pictures. Raises DataError."""
    parts, tests = indices_of(federation, data)
    return data.train.select(parts[client]), data.test.select(tests[client])


def indices_of(federation: Federation, data: Dataset) -> tuple[list[Indices], list[Indices]]:
    """The indices of each client's training pictures and test pictures. Raises DataError."""
    job, clients = federation.job, federation.clients
    parts = partition(data.train.labels, federation.partition, clients, job.seed, job.batch_size)
    return parts, partition_iid(data.test.labels, clients, job.seed)
