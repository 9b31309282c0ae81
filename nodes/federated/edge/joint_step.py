"""Joint step of a server part on the batches of many clients: one batch of them all, one step.

Parallel split learning: the loss is the sum of the clients' mean losses, each by its share of the data. What returns
to a client is the gradient of its own mean loss, as when it trains alone: so its own optimizer needs no other rate
because others train too, and if the clients' parts are averaged after each step, by the same shares, the whole is
training on the joint batch. (The paper does not say how gradients are scaled.)

EPSL(phi): at the first a = ceil(phi b) positions of the batch the last-layer gradients are averaged over the clients.
They are back-propagated once, through an extra forward pass of the clients' averaged smashed data, and what comes
of that at the cut is the same for all clients: it could be broadcast. In this pass batch norm uses its running
statistics or, where asked, those of the averaged data, with which one client's step at phi = 1 is that of training
alone; either way it leaves the running ones as they are. To back-propagate no more than a + M (b - a) samples the two
groups of positions are two batches, each with batch statistics of its own; that fills a gap, as does averaging what
the stage decodes to, for stages whose codes have a row for each sample. Averaged gradients need no scale: with a
linear server part they are exactly the weighted mean of PSL's.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nodes.errors import ModelError, ProtocolError, one_line
from nodes.federated.schemes.base import Statistics
from nodes.model.boundary import Tensors, check_restored, rows_of, unpack
from nodes.model.chain import Moment, Values
from nodes.model.checkpoint import write_state
from nodes.model.state_transfer import load_training_state, training_state
from nodes.spec.job import Job
from nodes.training.segment import Segment
from nodes.wire.messages import Activation, Gradient
from nodes.wire.outgoing import number, sendable

SHARED = "shared/"  # before the names of gradients that are the same for all clients


class JointReply(NamedTuple):
    """What a joint step returns to each client, and the samples that it took forward and backward.

    ``backward_s`` are the seconds of its backward pass.
    """

    gradients: Sequence[Gradient]
    forward_samples: float
    backward_samples: float
    backward_s: float


class _Batch(NamedTuple):
    """What one client sent, decoded."""

    message: Activation
    codes: Tensors
    labels: torch.Tensor
    weight: float


class JointSegment(Segment):
    """A server part that takes one training step on what several clients sent."""

    weighs_losses = False

    def __init__(self, job: Job, index: int, meta: bool = False, statistics: Statistics = "running") -> None:
        super().__init__(job, index, meta)
        self._statistics = statistics

    def joint(self, messages: Sequence[Activation], weights: Sequence[float], positions: int = 0) -> JointReply:
        """Take one step of the optimizer; gradients are in the order of ``messages``.

        ``weights`` are factors of the clients' mean losses, ``positions`` is a. Raises ProtocolError for boundaries
        that cannot be joined.
        """
        arrived = [self._decoded(*parts) for parts in zip(messages, weights, strict=True)]
        size = _common_size(arrived)
        if positions:
            _check_rows(arrived, size)
        self.inbound.train(True)
        if self._part is not None:
            self._part.train(True)
        scores = [{"count": float(size), "loss": 0.0, "correct": 0.0} for _ in arrived]
        shared, backward_s = self._averaged(arrived, positions, size, scores)
        leaves, own_s = self._own(arrived, positions, size, scores)
        self._step(None)
        gradients = [
            Gradient(
                assignment=batch.message.assignment,
                step=batch.message.step,
                metrics=score,
                tensors=self._returned(own, batch.weight) | shared,
            )
            for batch, score, own in zip(arrived, scores, leaves, strict=True)
        ]
        return joint_reply(gradients, size, positions, backward_s + own_s)

    def training_state(self) -> Tensors:
        """All that training goes on from elsewhere."""
        return {
            name: tensor.clone() for name, tensor in sendable(training_state(self._named(), self._optimizer)).items()
        }

    def load_training_state(self, tensors: Tensors) -> None:
        """Go on from what ``training_state`` returned. Raises ProtocolError for anything else."""
        states = load_training_state(self._named(), tensors)
        if self._optimizer is None:
            return
        for parameter in self._parameters():
            self._optimizer.state.pop(parameter, None)
            if state := states[parameter]:
                self._optimizer.state[parameter] = state

    def _named(self) -> Tensors:
        return {
            f"{part}.{name}": tensor
            for part, module in self._parts().items()
            for name, tensor in (*module.named_parameters(), *module.named_buffers())
        }

    def _own(
        self, arrived: list[_Batch], positions: int, size: int, scores: list[dict[str, float]]
    ) -> tuple[list[Tensors], float]:
        """Back-propagate each client's own positions; its leaves, which then have gradients."""
        if positions == size:
            return [{} for _ in arrived], 0.0
        leaves = [
            {
                name: (code[positions:] if positions else code).detach().requires_grad_(name in batch.message.grads)
                for name, code in batch.codes.items()
            }
            for batch in arrived
        ]
        loss: torch.Tensor | float = 0.0
        logits = self._forward(arrived, leaves, size - positions)
        for batch, mine, score in zip(arrived, torch.split(logits, size - positions), scores, strict=True):
            labels = batch.labels[positions:]
            part = self._loss(mine, labels) * ((size - positions) / size)
            loss = loss + part * batch.weight
            score["loss"] += number(part)
            score["correct"] += number((mine.argmax(1) == labels).sum())
        assert isinstance(loss, torch.Tensor)
        began = self._time()
        torch.autograd.backward(loss)
        return leaves, self._time() - began

    def _averaged(
        self, arrived: list[_Batch], positions: int, size: int, scores: list[dict[str, float]]
    ) -> tuple[Tensors, float]:
        """Back-propagate the averaged gradients of the first ``positions``; what returns to all clients."""
        if not positions:
            return {}, 0.0
        first = [{name: code[:positions] for name, code in batch.codes.items()} for batch in arrived]
        with torch.no_grad():
            logits = torch.split(self._forward(arrived, first, positions), positions)
        gradients = []
        for batch, mine, score in zip(arrived, logits, scores, strict=True):
            labels = batch.labels[:positions]
            gradients.append(_own_gradients(mine, labels, size, self.job.label_smoothing))
            score["loss"] += number(self._loss(mine, labels)) * positions / size
            score["correct"] += number((mine.argmax(1) == labels).sum())
        weights = [batch.weight for batch in arrived]
        shares = [weight / sum(weights) for weight in weights]
        means = {
            name: _mean([codes[name] for codes in first], shares)
            .detach()
            .requires_grad_(name in arrived[0].message.grads)
            for name in first[0]
        }
        with self._frozen_statistics():
            output = self._forward(arrived[:1], [means], positions)
        began = self._time()
        torch.autograd.backward(output, _mean(gradients, weights))
        seconds = self._time() - began
        return {f"{SHARED}{name}": tensor for name, tensor in self._returned(means, sum(weights)).items()}, seconds

    def _forward(self, arrived: list[_Batch], codes: Sequence[Tensors], rows: int) -> torch.Tensor:
        """The logits of ``codes``, all of them one batch, in which each has ``rows`` samples."""
        values: list[Values] = []
        for batch, some in zip(arrived, codes, strict=True):
            self._seed(batch.message, self.place.inbound, 1)
            restored = self.inbound.restore(some)
            views = batch.message.views if rows == len(batch.labels) else rows_of(batch.message.views, rows)
            check_restored(restored, self._arriving, views)
            values.append(unpack(restored, views, batch.message.scalars))
        joined = _joined(values, rows)
        assert self._part is not None
        if missing := set(self._part.inputs) - joined.keys():
            raise ProtocolError(f"missing input values of the node's first layer: {sorted(missing)}")
        moment = Moment(self.job.seed, arrived[0].message.step)
        return self._widened(self._compute(joined, moment)[self._output])

    def _time(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _decoded(self, message: Activation, weight: float) -> _Batch:
        if message.labels is None:
            raise ProtocolError(f"step {message.step} came without labels")
        with torch.no_grad():
            codes = self.inbound.decode(self._to_device(message.tensors))
        if unknown := set(message.grads) - set(codes):
            raise ProtocolError(f"gradients requested for values not received: {sorted(unknown)}")
        return _Batch(message, codes, message.labels.to(self._device), weight)

    def _returned(self, leaves: Tensors, weight: float) -> Tensors:
        gradients = {name: leaf.grad / weight for name, leaf in leaves.items() if leaf.grad is not None}
        return sendable(self.inbound.encode_gradients(gradients))

    @contextmanager
    def _frozen_statistics(self) -> Iterator[None]:
        """Let batch norm leave its running statistics as they are, and use them if they are the ones to use."""
        norms = [
            module
            for held in (self._part, self.inbound)
            for module in (held.modules() if held is not None else ())
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        for norm in norms:
            norm.train(self._statistics == "batch")
            norm.track_running_stats = self._statistics == "running"
        try:
            yield
        finally:
            for norm in norms:
                norm.train()
                norm.track_running_stats = True


class SharingSegment(Segment):
    """A client's part, to which gradients may return that are the same for all clients.

    ``adjust_gradients`` is the scheme's hook, if it has one of its own.
    """

    adjust_gradients: Callable[[Mapping[str, nn.Parameter], Tensors], None] | None = None

    def begin_round(self, round_number: int) -> None:
        """Begin a round: drop steps that were not finished, note the present parameters for the scheme's hook."""
        if round_number:  # a segment begins with epoch 0
            self.begin_epoch(round_number)
        self._pending.clear()
        if self.adjust_gradients:
            self._start = {name: parameter.detach().clone() for name, parameter in self._named_parameters().items()}

    def exchange(self, tensors: Tensors) -> Tensors:
        """Put ``tensors`` in the place of those of these names in ``state``; what was there. Nothing is copied."""
        held = {_full_name(*name.split(".", 1)): tensor for name, tensor in self._tensors().items()}
        before = {name: held[name].data for name in tensors}
        for name, tensor in tensors.items():
            held[name].data = tensor.to(self._device)
        return before

    def _step(self, save: int | None, steps: tuple[int, int] | None = None) -> None:
        if self.adjust_gradients:
            self.adjust_gradients(self._named_parameters(), self._start)
        super()._step(save, steps)

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters by their names in ``state``."""
        return {
            _full_name(part, key): parameter
            for part, module in self._parts().items()
            for key, parameter in module.named_parameters()
        }

    def keep(self, path: Path, begun: int) -> None:
        """Save all that it goes on from, once ``begun`` steps were taken."""
        write_state(path, {"begun": begun, **self._everything()})

    def resume(self, path: Path) -> int:
        """Go on from what ``keep`` saved; the steps taken. Raises ModelError for a file of anything else."""
        try:
            saved = torch.load(path, map_location=self._device, weights_only=True)
            self._go_on(saved)
            return int(saved["begun"])
        except Exception as error:  # whatever stands in the file
            raise ModelError(f"{path} is no state of this client's part: {one_line(error)}") from None

    def _decode_gradients(self, tensors: Tensors) -> Tensors:
        shared = {name.removeprefix(SHARED): value for name, value in tensors.items() if name.startswith(SHARED)}
        own = super()._decode_gradients({name: value for name, value in tensors.items() if not name.startswith(SHARED)})
        if not shared:
            return own
        shared = super()._decode_gradients(shared)
        return {name: torch.cat([value, own[name]]) if name in own else value for name, value in shared.items()}


def _full_name(part: str, key: str) -> str:
    """The name in ``Segment.state`` of what ``part`` of a segment holds as ``key``."""
    return key.removeprefix("body.") if part == "part" else f"{part}.{key}"


def joint_reply(gradients: Sequence[Gradient], size: int, positions: int, backward_s: float) -> JointReply:
    """The reply of one step on batches of ``size``: it takes M b + a samples forward and a + M (b - a) backward."""
    forward, backward = len(gradients) * size + positions, positions + len(gradients) * (size - positions)
    return JointReply(gradients, float(forward), float(backward), backward_s)


def _own_gradients(logits: torch.Tensor, labels: torch.Tensor, batch_size: int, smoothing: float = 0.0) -> torch.Tensor:
    """Last-layer gradients [n, C] of n samples out of a batch, whose loss is the mean cross entropy over it."""
    classes = logits.shape[1]
    answers = labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
    targets = answers.to(logits.dtype) * (1 - smoothing) + smoothing / classes
    return (logits.softmax(1) - targets) / batch_size


def _mean(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean of the clients' ``values``, which all have one shape."""
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0)


def _common_size(arrived: Sequence[_Batch]) -> int:
    sizes = {len(batch.labels) for batch in arrived}
    if len(sizes) > 1:
        raise ProtocolError(f"batches of {sorted(sizes)} samples cannot be joined")
    return sizes.pop()


def _check_rows(arrived: Sequence[_Batch], size: int) -> None:
    """Raise ProtocolError unless what came has a row for each of ``size`` samples, of numbers with a mean."""
    views = {(name, view.base) for batch in arrived for name, view in batch.message.views.items()}
    if any(name != base for name, base in views) or any(batch.message.scalars for batch in arrived):
        raise ProtocolError(
            "EPSL cannot average this cut: it contains tensor views or batch-size scalars; choose another cut"
        )
    for name, code in arrived[0].codes.items():
        shapes = {batch.codes[name].shape if name in batch.codes else None for batch in arrived}
        if len(shapes) > 1 or code.shape[:1] != (size,):
            raise ProtocolError(f"{name} has no row for each sample: no positions of it can be averaged")
        if not code.is_floating_point():
            raise ProtocolError(f"{name} holds no numbers that have a mean over clients: no epsl with this stage")


def _joined(values: list[Values], rows: int) -> Values:
    """One batch of all, each of ``rows`` samples. Raises ProtocolError for what is not of single samples."""
    if len(values) == 1:
        return values[0]
    joined: Values = {}
    for name, first in values[0].items():
        parts = [one[name] for one in values if isinstance(one.get(name), torch.Tensor)]
        if len(parts) < len(values) or any(part.shape != (rows, *first.shape[1:]) for part in parts):
            raise ProtocolError(f"{name} cannot be joined over clients: cut where tensors of equal batches cross")
        joined[name] = torch.cat(parts)
    return joined
