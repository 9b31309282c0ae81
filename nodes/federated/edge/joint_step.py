"""Joint step of a server part on the batches of many clients: one batch of them all, one step.

Parallel split learning: the loss is the sum of the clients' mean losses, each by its share of the data. What returns
to a client is the gradient of its own mean loss, as when it trains alone: so its own optimizer needs no other rate
because others train too, and if the clients' parts are averaged after each step, by the same shares, the whole is
training on the joint batch. (The paper does not say how gradients are scaled.)

EPSL(phi): at the first a = ceil(phi b) positions of the batch the last-layer gradients are averaged over the clients.
The article does not say which activations the mean meets; ``Scheme.through`` chooses. With the last-layer gradient
z_ij of client i at position j, of its own mean loss, its mean by shares z_j, and M clients, at these positions:

==========  ============================================================  ======================  ============
through     the server's gradient                                         to the clients          backward
==========  ============================================================  ======================  ============
averaged    z_j at the mean of the smashed data, in one more forward pass one, broadcast          a + M (b - a)
one         z_j at the data of one client, drawn by shares                that one, broadcast     a + M (b - a)
each        z_j at the data of each client, by shares                     its own, or the mean    M b
cut         that of PSL                                                   the mean, broadcast     M b
==========  ============================================================  ======================  ============

``averaged``: in the extra pass batch norm uses its running statistics or, where asked, those of the averaged data;
either way it leaves the running ones as they are. The two groups of positions are two batches, each with batch
statistics of its own. ``one``: all positions are one batch, whose statistics are constants in the backward pass unless
that takes all samples, as with one client. With a linear server part all four return the weighted mean of PSL's
gradients. Averaging is for stages whose codes have a row for each sample.
"""

import bisect
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from msgspec.structs import replace
from torch.nn.modules.batchnorm import _BatchNorm

from nodes.errors import ProtocolError
from nodes.federated.client_segment import SHARED
from nodes.federated.edge.joining import Batch, check_rows, common_size, joined_batch
from nodes.federated.edge.partial_backward import run_partially
from nodes.federated.schemes.base import Scheme, Through
from nodes.model.boundary import Tensors, check_restored, rows_of, unpack
from nodes.model.chain import Moment, Part, Values
from nodes.model.state_transfer import load_training_state, training_state
from nodes.seeds import derive
from nodes.spec.job import Job
from nodes.training.loss import batch_loss, labels_of
from nodes.training.segment import Segment
from nodes.wire.messages import Activation, Gradient
from nodes.wire.outgoing import number, sendable

CLIENT_DRAWS = 1 << 33  # stands where other purposes of a step have the number of a microbatch


class JointReply(NamedTuple):
    """What a joint step returns to each client, and the samples that it took forward and backward.

    ``backward_s`` are the seconds of its backward pass.
    """

    gradients: Sequence[Gradient]
    forward_samples: float
    backward_samples: float
    backward_s: float


class JointSegment(Segment):
    """A server part that takes one training step on what several clients sent, as ``scheme`` says."""

    weighs_losses = False

    def __init__(self, job: Job, index: int, meta: bool = False, scheme: Scheme | None = None) -> None:
        super().__init__(job, index, meta)
        self._scheme = scheme or Scheme()

    def joint(self, messages: Sequence[Activation], weights: Sequence[float], positions: int = 0) -> JointReply:
        """Take one step of the optimizer; gradients are in the order of ``messages``.

        ``weights`` are factors of the clients' mean losses, ``positions`` is a. Raises ProtocolError for boundaries
        that cannot be joined.
        """
        arrived = [self._decoded(*parts) for parts in zip(messages, weights, strict=True)]
        size = common_size(arrived)
        if positions:
            check_rows(arrived, size)
        self.inbound.train(True)
        if self._part is not None:
            self._part.train(True)
        scores = [{"count": float(size), "loss": 0.0, "correct": 0.0} for _ in arrived]
        through = self._scheme.through
        if positions and through != "averaged":
            own, shared, backward_s = self._through(arrived, positions, size, scores)
        else:
            shared, averaged_s = self._averaged(arrived, positions, size, scores)
            own, own_s = self._own(arrived, positions, size, scores)
            backward_s = averaged_s + own_s
        self._step(None)
        gradients = [
            Gradient(assignment=sent.assignment, step=sent.step, metrics=score, tensors=mine | shared)
            for sent, score, mine in zip(messages, scores, own, strict=True)
        ]
        return joint_reply(gradients, size, positions, through, backward_s)

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
        self, arrived: list[Batch], positions: int, size: int, scores: list[dict[str, float]]
    ) -> tuple[list[Tensors], float]:
        """Back-propagate each client's own positions; what returns to it."""
        if positions == size:
            return [{} for _ in arrived], 0.0
        leaves = _leaves(arrived, positions)
        loss = self._joint_loss(arrived, self._forward(arrived, leaves, size - positions), positions, size, scores)
        seconds = self._back_propagate(loss)
        pairs = zip(arrived, leaves, strict=True)
        return [self._returned(_gradients(mine), batch.weight) for batch, mine in pairs], seconds

    def _through(
        self, arrived: list[Batch], positions: int, size: int, scores: list[dict[str, float]]
    ) -> tuple[list[Tensors], Tensors, float]:
        """Back-propagate through the joint batch; what returns to each client, and to all."""
        weights, leaves = [batch.weight for batch in arrived], _leaves(arrived)
        chosen = self._chosen_clients(arrived, positions) if self._scheme.through == "one" else []
        taken: torch.Tensor | None = None
        if chosen and len(arrived) > 1:
            output, logits, taken = self._partially(arrived, leaves, size, chosen)
        else:
            output = self._forward(arrived, leaves, size)
            logits = output.detach()
        answers = logits.requires_grad_()
        torch.autograd.backward(self._joint_loss(arrived, answers, 0, size, scores))
        assert answers.grad is not None
        last = answers.grad.view(len(arrived), size, -1)  # [M, b, classes], of the joint loss
        mean = last[:, :positions].sum(0)
        if self._scheme.through == "each":
            shares = torch.tensor([weight / sum(weights) for weight in weights], device=last.device, dtype=last.dtype)
            last[:, :positions] = shares.view(-1, 1, 1) * mean
        elif chosen:
            last[:, :positions] = mean
        rows = last.flatten(0, 1)
        seconds = self._back_propagate(output, rows if taken is None else rows.index_select(0, taken.to(rows.device)))
        return *self._returns(leaves, weights, positions, size), seconds

    def _returns(
        self, leaves: Sequence[Tensors], weights: Sequence[float], positions: int, size: int
    ) -> tuple[list[Tensors], Tensors]:
        """What returns to each client and what to all, the mean of the first ``positions``."""
        gradients = [_gradients(mine) for mine in leaves]
        if not positions or (self._scheme.through == "each" and not self._scheme.broadcast):
            return [self._returned(*pair) for pair in zip(gradients, weights, strict=True)], {}
        common = {name: torch.stack([mine[name][:positions] for mine in gradients]).sum(0) for name in gradients[0]}
        shared = {f"{SHARED}{name}": tensor for name, tensor in self._returned(common, sum(weights)).items()}
        rest = [{name: tensor[positions:] for name, tensor in mine.items()} for mine in gradients]
        own = [self._returned(*pair) for pair in zip(rest, weights, strict=True)]
        return own if positions < size else [{} for _ in own], shared

    def _partially(
        self, arrived: list[Batch], leaves: list[Tensors], size: int, chosen: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run all samples, of which few can be back-propagated: of each of the first positions that of one client.

        Returns:
            Their logits, the logits of all samples without a graph, and the numbers of the few.
        """
        rows = [client * size + position for position, client in enumerate(chosen)]
        rows += [client * size + own for client in range(len(arrived)) for own in range(len(chosen), size)]
        taken = torch.tensor(sorted(rows))
        joined, moment = self._joined_input(arrived, leaves, size)
        assert isinstance(self._part, Part)
        made = run_partially(self._part, joined, taken, partial(self._compute, moment=moment))[self._output]
        output, others_output = self._widened(made.chosen), self._widened(made.others)
        logits = output.new_empty(len(arrived) * size, *output.shape[1:])
        if not logits.is_meta:
            taken = taken.to(logits.device)
            others = torch.ones(len(logits), dtype=torch.bool, device=logits.device).index_fill_(0, taken, False)
            logits[taken], logits[others] = output.detach(), others_output
        return output, logits, taken

    def _chosen_clients(self, arrived: list[Batch], positions: int) -> list[int]:
        """The client whose data the mean gradient of each position meets, drawn by the clients' shares."""
        sums = list(itertools.accumulate(batch.weight for batch in arrived))
        step = arrived[0].message.step
        draws = [derive(self.job.seed, step, CLIENT_DRAWS, position) / 2**63 for position in range(positions)]
        return [bisect.bisect_right(sums, draw * sums[-1], hi=len(sums) - 1) for draw in draws]

    def _averaged(
        self, arrived: list[Batch], positions: int, size: int, scores: list[dict[str, float]]
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
            loss, correct = batch_loss(mine, labels, self.job.label_smoothing)
            score["loss"] += number(loss) * positions / size
            score["correct"] += number(correct)
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
        seconds = self._back_propagate(output, _mean(gradients, weights))
        returned = self._returned(_gradients(means), sum(weights))
        return {f"{SHARED}{name}": tensor for name, tensor in returned.items()}, seconds

    def _joint_loss(
        self,
        arrived: Sequence[Batch],
        logits: torch.Tensor,
        start: int,
        size: int,
        scores: Sequence[dict[str, float]],
    ) -> torch.Tensor:
        """The weighted loss of the positions from ``start`` on out of batches of ``size``; adds to clients' scores."""
        loss: torch.Tensor | float = 0.0
        for batch, mine, score in zip(arrived, torch.split(logits, size - start), scores, strict=True):
            labels = batch.labels[start:]
            mean, correct = batch_loss(mine, labels, self.job.label_smoothing)
            part = mean * ((size - start) / size)
            loss = loss + part * batch.weight
            score["loss"] += number(part)
            score["correct"] += number(correct)
        assert isinstance(loss, torch.Tensor)
        return loss

    def _forward(self, arrived: list[Batch], codes: Sequence[Tensors], rows: int) -> torch.Tensor:
        """The logits of ``codes``, all of them one batch, in which each has ``rows`` samples."""
        return self._widened(self._compute(*self._joined_input(arrived, codes, rows))[self._output])

    def _joined_input(self, arrived: list[Batch], codes: Sequence[Tensors], rows: int) -> tuple[Values, Moment]:
        """The input of the part for ``codes`` as one batch."""
        values: list[Values] = []
        for batch, some in zip(arrived, codes, strict=True):
            self._seed(batch.message, self.place.inbound, 1)
            restored = self.inbound.restore(some)
            views = batch.message.views if rows == len(batch.labels) else rows_of(batch.message.views, rows)
            check_restored(restored, self._arriving, views)
            values.append(unpack(restored, views, batch.message.scalars))
        joined = joined_batch(values, rows)
        assert self._part is not None
        if missing := set(self._part.inputs) - joined.keys():
            raise ProtocolError(f"missing input values of the node's first layer: {sorted(missing)}")
        return joined, Moment(self.job.seed, arrived[0].message.step)

    def _back_propagate(self, output: torch.Tensor, gradient: torch.Tensor | None = None) -> float:
        """Back-propagate; the seconds that it took."""
        began = self._time()
        torch.autograd.backward(output, gradient)
        return self._time() - began

    def _time(self) -> float:
        """Seconds, once the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _decoded(self, message: Activation, weight: float) -> Batch:
        labels = labels_of(message, self.job.classes).to(self._device)
        codes, views = self._decode(message)
        return Batch(replace(message, views=views), codes, labels, weight)

    def _returned(self, gradients: Tensors, weight: float) -> Tensors:
        scaled = {name: gradient / weight for name, gradient in gradients.items()}
        return sendable(self.inbound.encode_gradients(scaled))

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
            norm.train(self._scheme.statistics == "batch")
            norm.track_running_stats = self._scheme.statistics == "running"
        try:
            yield
        finally:
            for norm in norms:
                norm.train()
                norm.track_running_stats = True


def joint_reply(
    gradients: Sequence[Gradient], size: int, positions: int, through: Through, backward_s: float
) -> JointReply:
    """The reply of one step on batches of ``size``, with the samples that it took forward and backward."""
    forward = backward = len(gradients) * size
    if through == "averaged":
        forward += positions
    if through in ("averaged", "one"):
        backward -= (len(gradients) - 1) * positions
    return JointReply(gradients, float(forward), float(backward), backward_s)


def _leaves(arrived: Sequence[Batch], start: int = 0) -> list[Tensors]:
    """Each client's codes from position ``start`` on, as leaves of the graph."""
    return [
        {
            name: (code[start:] if start else code).detach().requires_grad_(name in batch.message.grads)
            for name, code in batch.codes.items()
        }
        for batch in arrived
    ]


def _gradients(leaves: Tensors) -> Tensors:
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def _own_gradients(logits: torch.Tensor, labels: torch.Tensor, batch_size: int, smoothing: float = 0.0) -> torch.Tensor:
    """Last-layer gradients [n, C] of n samples out of a batch, whose loss is the mean cross entropy over it."""
    classes = logits.shape[1]
    answers = labels.unsqueeze(1) == torch.arange(classes, device=labels.device)
    targets = answers.to(logits.dtype) * (1 - smoothing) + smoothing / classes
    return (logits.softmax(1) - targets) / batch_size


def _mean(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean of the clients' ``values``, which all have one shape."""
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0)
