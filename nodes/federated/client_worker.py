"""What does a client of a federation compute? Its part of the network, on its own pictures, round after round."""

from pathlib import Path

import msgspec
import torch

from nodes.data.images import Dataset, Indices, Pictures, Selected
from nodes.data.partitioning import partition, partition_iid
from nodes.federated.edge.joint_step import SharingSegment
from nodes.spec.federation import Federation
from nodes.spec.job import Job
from nodes.training.source import Source
from nodes.wire.messages import AnyMessage, Gradient, Result, Weights


class ClientWork(Source):
    """The worker of client ``client``; ``data`` are all pictures of the federation."""

    def __init__(self, federation: Federation, client: int, data: Dataset) -> None:
        own, tests = pictures_of(federation, client, data)
        self._part = SharingSegment(job_of(federation), 0)
        super().__init__(self._part, Dataset(data.name, data.classes, own, tests), source=client)
        self.samples = len(own)
        self.mean_samples = len(data.train) / federation.clients
        self.backward = self._backward
        self.begun = 0
        self._classes = len(data.classes)
        self._round = 0
        self._kept = None if federation.folder is None else Path(federation.folder) / f"client-{client}.pt"
        if self._kept is not None and self._kept.exists():
            self.begun = self._part.resume(self._kept)

    @property
    def layers(self) -> int:
        """How many layers it holds."""
        return len(self._part.names)

    @property
    def steps(self) -> int:
        """How many steps its optimizer has taken."""
        return self._part.steps

    def train(self, round_number: int, number: int) -> AnyMessage:  # type: ignore[override]  # tasks are named by round
        """Run its ``number``-th batch of all through the first part: what goes to the server, or what came of it."""
        self._begin(round_number)
        epoch, batch = divmod(number, self.course.train_steps)
        reply = super().train(epoch, batch, 0, None)
        self.begun = number + 1
        if isinstance(reply, Gradient):
            self._keep()
        return msgspec.structs.replace(reply, assignment=round_number)

    def _backward(self, message: Gradient) -> Gradient:
        """Take a gradient back through its part."""
        reply = self._part.backward(message)
        self._keep()
        return reply

    def test(self, round_number: int, batch: int) -> AnyMessage:  # type: ignore[override]  # tasks are named by round
        """Run test batch ``batch`` through the first part."""
        reply = super().test(batch)
        return reply if isinstance(reply, Result) else msgspec.structs.replace(reply, assignment=round_number)

    def score(self, result: Result) -> Result:
        """Right answers and all answers, by class."""
        answers = self._answers.pop(result.step)
        found = result.tensors["logits"].argmax(1).to(answers.device)
        right = torch.bincount(answers[found == answers], minlength=self._classes)
        tested = torch.bincount(answers, minlength=self._classes)
        return Result(assignment=result.assignment, step=result.step, tensors={"right": right, "tested": tested})

    def give(self, round_number: int) -> Weights:
        """Its part, as it is now."""
        return Weights(assignment=round_number, samples=self.samples, tensors=self.segment.state())

    def take(self, weights: Weights) -> Weights:
        """Go on from the part that the server sent."""
        self.segment.adopt(weights.tensors)
        return Weights(assignment=weights.assignment, tensors={})

    def _keep(self) -> None:
        """Save its state after a step, where the federation asks for it."""
        if self._kept is not None:
            self._part.keep(self._kept, self.begun)

    def _begin(self, round_number: int) -> None:
        if round_number != self._round:
            self._round = round_number
            self.segment.begin_epoch(round_number)


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
