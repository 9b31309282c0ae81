"""Worker of a client: its part of the network on its own pictures, round after round."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from nodes.data.images import Dataset, Indices, Pictures, Selected
from nodes.data.partitioning import partition, partition_iid
from nodes.federated.calls import Adopted, Answers
from nodes.federated.client import ClientData
from nodes.federated.edge.joint_step import SharingSegment
from nodes.federated.schemes import Scheme, scheme_of
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.training.calls import TaskMessage
from nodes.training.source import Source
from nodes.wire.messages import ClientModel, ClientUpdate, Gradient, Result


class ClientWorker:
    """The worker of client ``client``; ``data`` are all pictures of the federation."""

    def __init__(self, federation: Federation, client: int, data: Dataset) -> None:
        own, tests = pictures_of(federation, client, data)
        self.client = client
        self.segment = SharingSegment(job_of(federation), 0)
        scheme = scheme_of(federation)
        if type(scheme).adjust_gradients is not Scheme.adjust_gradients:
            self.segment.adjust_gradients = scheme.adjust_gradients
        self._source = Source(self.segment, Dataset(data.name, data.classes, own, tests), source=client)
        self._samples, self._mean_samples = len(own), len(data.train) / federation.clients
        self._labels: dict[int, torch.Tensor] = {}  # of test batches under way
        self._begun = 0
        self._classes = len(data.classes)
        self._round = -1
        self._path = None if federation.folder is None else Path(federation.folder) / f"client-{client}.pt"
        if self._path is not None and self._path.exists():
            self._begun = self.segment.resume(self._path)

    @property
    def data(self) -> ClientData:
        """What the client's role needs to know of its pictures."""
        return ClientData(self._samples, self._mean_samples, self._source.schedule.test_batches, self._begun)

    @property
    def layers(self) -> int:
        """How many layers it holds."""
        return len(self.segment.names)

    @property
    def steps(self) -> int:
        """How many steps its optimizer has taken."""
        return self.segment.steps

    def train(self, round_number: int, number: int) -> TaskMessage:
        """Run training batch ``number`` of all rounds through the client's part; a Gradient if the model ends there."""
        if round_number != self._round:
            self._round = round_number
            self.segment.begin_round(round_number)
        epoch, batch = divmod(number, self._source.schedule.train_steps)
        reply = self._source.train(epoch, batch, 0, None)
        self._begun = number + 1
        if isinstance(reply, Gradient):
            self._keep()
        return msgspec.structs.replace(reply, assignment=round_number)

    def backward(self, message: Gradient) -> Gradient:
        """Take a gradient back through the client's part."""
        reply = self.segment.backward(message)
        self._keep()
        return reply

    def test(self, round_number: int, batch: int) -> TaskMessage | Answers:
        """Run test batch ``batch`` through the client's part."""
        pictures, self._labels[batch] = self._source.draw(train=False, epoch=0, batch=batch)
        reply = self.segment.source(pictures, None, assignment=round_number, step=batch, train=False)
        return self.answers(reply) if isinstance(reply, Result) else reply

    def answers(self, result: Result) -> Answers:
        """Compare the result of a test batch with its labels."""
        labels = self._labels.pop(result.step)
        found = result.tensors["logits"].argmax(1).to(labels.device)
        correct = torch.bincount(labels[found == labels], minlength=self._classes)
        return Answers(correct, torch.bincount(labels, minlength=self._classes))

    def give(self, round_number: int) -> ClientUpdate:
        """Copy the client's part as it is now."""
        return ClientUpdate(round=round_number, samples=self._samples, tensors=self.segment.state())

    def adopt(self, model: ClientModel) -> Adopted:
        """Go on from the clients' part that the server sent."""
        self.segment.adopt(model.tensors)
        return Adopted()

    @contextmanager
    def borrowing(self, model: ClientModel | None) -> Iterator[None]:
        """Test with the clients' part ``model`` instead of its own; a step that is under way goes on afterwards."""
        own = self.segment.exchange(model.tensors) if model else {}
        try:
            yield
        finally:
            self.segment.exchange(own)

    def _keep(self) -> None:
        """Save the client's state after a step, where the federation asks for it."""
        if self._path is not None:
            self.segment.keep(self._path, self._begun)


def job_of(federation: Federation) -> Job:
    """The job as its nodes' parts need it: steps are numbered apart for each client, rounds are its epochs."""
    return msgspec.structs.replace(federation.job, sources=federation.clients, epochs=federation.rounds, steps=None)


def pictures_of(federation: Federation, client: int, data: Dataset) -> tuple[Pictures, Pictures]:
    """A client's training pictures, and its random part of the test pictures. Raises DataError."""
    job = federation.job
    parts = partition(data.train.labels, federation.partition, federation.clients, job.seed, job.batch_size)
    tests = partition_iid(data.test.labels, federation.clients, job.seed)
    return _selected(data.train, parts[client]), _selected(data.test, tests[client])


def _selected(pictures: Pictures, chosen: Indices) -> Pictures:
    if len(chosen) == len(pictures):
        return pictures
    return Pictures(Selected(pictures.images, chosen), pictures.labels[chosen], pictures.mean, pictures.std)
