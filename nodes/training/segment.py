"""Computation of one node: its part of the model and its halves of the adjacent stages.

Methods take and return messages. On the meta device the same code yields the shapes alone, for virtual time.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import msgspec
import torch
from torch import nn

from nodes.errors import ProtocolError
from nodes.model.boundary import Strides, Tensors, View, apart, check_restored, pack, returning_views, unpack
from nodes.model.chain import Chain, Moment, Part, Values
from nodes.model.checkpoint import read_checkpoint, write_checkpoint
from nodes.model.factory import build_model, outline
from nodes.model.layer_range import LayerRange, layer_range
from nodes.model.part import PlainPart
from nodes.model.state_transfer import checked
from nodes.model.weights import load_weights
from nodes.runtime.account import Account
from nodes.runtime.actions import Compute
from nodes.seeds import derive, seed_generators
from nodes.spec.job import Job
from nodes.stages.base import Stage, reading
from nodes.stages.builtin import build_stage
from nodes.training.loss import Teacher, batch_loss, check_labels, check_weighing, labels_of, taught_of
from nodes.training.optimizer import clip_gradients, learning_rate, make_optimizer
from nodes.wire.messages import Activation, Gradient, Result
from nodes.wire.outgoing import LateNumber, number, sendable

TaskMessage = Activation | Gradient | Result  # a batch on its way, or what came of it where the model ends
NUMBERS = ("assignment", "step", "microbatch")  # identify a task
STAGE_LAYERS = 1 << 32  # random streams of stages are numbered from here; in inference from twice this


class _Received(NamedTuple):
    """What the backward pass returns to the previous node: gradients of ``leaves``, and their values' ``strides``."""

    leaves: Tensors
    strides: Strides


class _Pending(msgspec.Struct):
    """State that the backward pass of one microbatch needs."""

    received: _Received
    codes: Tensors  # sent values that await gradients
    strides: Strides  # of the values that were packed, and then of their gradients
    loss: torch.Tensor | None  # the stage's own loss term
    metrics: dict[str, float]  # of the stage
    save: int | None
    steps: tuple[int, int] | None  # this and all of the training, where the learning rate depends on them


class Segment:
    """Trainable state of one node and its computations on messages."""

    stays_in_process = False  # what it sends: then tensors of a GPU stay there, and its scores are waited for late
    weighs_losses: ClassVar[bool] = True  # whether its loss may be that of a stage that weighs losses

    def __init__(self, job: Job, index: int, meta: bool = False) -> None:
        chain = self._chain(job, index, meta)
        self.job = job
        self.layers = len(chain)
        self._device = torch.device("meta" if meta else job.device)
        self._casts = job.precision == "bfloat16"
        self._memory_format = torch.channels_last if job.memory_format == "channels_last" else torch.preserve_format
        self._input, self._output = chain.input, chain.output
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._family: dict[int, Tensors] = {}  # by member; 0 is the trained one
        self._member = self._microbatches_done = self.steps = 0
        self.earlier: Account | None = None  # what the node had done when the state was kept that it goes on from
        self._hold(chain, layer_range(job.cuts, index, len(chain)))
        taught = job.distillation if index == 0 else None
        self._teacher = None if taught is None else Teacher(job, taught, self._device)
        if job.weights and not meta:
            load_weights(job.weights, chain.model, self._parts(), self._device)
        self.begin_epoch(0)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device

    def source(self, pictures: torch.Tensor, labels: torch.Tensor | None, **about: Any) -> TaskMessage:
        """Run a batch of ``pictures`` (N, C, H, W) through the first node: an Activation, Gradient or Result."""
        message = Activation(tensors={self._input: pictures}, labels=labels, **about)
        self._select_member(message)
        pictures = pictures.to(self._device, memory_format=self._memory_format)
        if self._teacher is not None and message.train:
            told = sendable({"teacher": self._teacher(pictures)}, self.stays_in_process)
            message = msgspec.structs.replace(message, **told)
        return self._run(message, {self._input: pictures}, _Received({}, {}))

    def forward(self, message: Activation) -> TaskMessage:
        """Run ``message`` through this part: an Activation to send on, a Gradient or Result to return."""
        self._select_member(message)
        return self._run(message, *self._arrived(message))

    def _arrived(self, message: Activation) -> tuple[Values, _Received]:
        """The boundary's values from ``message``, and what their gradients return to."""
        codes, views = self._decode(message)
        leaves = {
            name: code.detach().requires_grad_(message.train and name in message.grads) for name, code in codes.items()
        }
        received = _Received(leaves, {})
        self.inbound.train(message.train)
        self._seed(message, self.place.inbound, 1)
        with torch.set_grad_enabled(message.train):
            with reading(self.inbound, "activation", message.step):
                restored, views = self.inbound.restore(leaves), self.inbound.views_of(views)
            check_restored(restored, self._arriving, views)
            return unpack(restored, views, message.scalars, received.strides), received

    def _decode(self, message: Activation) -> tuple[Tensors, dict[str, View]]:
        """The codes that ``message`` carries, views with a gradient of their own among them, and the other views.

        Raises ProtocolError for what its stage or autograd cannot take.
        """
        with torch.no_grad(), reading(self.inbound, "activation", message.step):
            codes = self.inbound.decode(self._to_device(message.tensors))
            codes, views = apart(codes, message.views, self._arriving.keys() & message.grads)
        if odd := [name for name in message.grads if name not in codes or not codes[name].is_floating_point()]:
            raise ProtocolError(f"gradients requested for values not received, or of whole numbers: {sorted(odd)}")
        return codes, views

    def backward(self, message: Gradient) -> Gradient:
        """Backpropagate a gradient; the optimizer steps after the last microbatch of a step."""
        (pending,) = self._back_propagated([message])
        if type(self.outbound).trained is not Stage.trained:
            self.outbound.trained({name: float(value) for name, value in message.metrics.items()})
        self._step(pending.save, pending.steps)
        metrics = message.metrics | pending.metrics
        return Gradient(**numbers(message), metrics=metrics, **self._gradients(pending.received))

    def _back_propagated(self, messages: Sequence[Gradient], weights: Sequence[float] = (1.0,)) -> list[_Pending]:
        """Take ``messages``, each times its weight, back in one pass; the state of their tasks."""
        roots, gradients, found = [], [], []
        for message, weight in zip(messages, weights, strict=True):
            pending = self._pending.pop((message.step, message.microbatch), None)
            if pending is None:
                raise ProtocolError(f"unexpected gradient of step {message.step}, microbatch {message.microbatch}")
            if message.strides is not msgspec.UNSET:
                if unknown := message.strides.keys() - pending.strides.keys():
                    raise ProtocolError(f"strides of gradients of values not sent: {sorted(unknown)}")
                pending.strides.update(message.strides)
            with reading(self.outbound, "gradient", message.step):
                decoded = self._decode_gradients(self._to_device(message.tensors))
            for name, gradient in decoded.items():
                code = pending.codes.get(name)
                usable = gradient.is_floating_point() and code is not None and code.requires_grad
                if code is None or not usable or code.shape != gradient.shape:
                    raise ProtocolError(f"gradient of {name} {list(gradient.shape)} matches no sent value")
                roots.append(code)
                gradients.append(gradient if weight == 1 else weight * gradient)
            if pending.loss is not None and pending.loss.requires_grad:
                roots.append(pending.loss)
                gradients.append(torch.full_like(pending.loss, weight / self.job.microbatches))
            found.append(pending)
        if roots:
            torch.autograd.backward(roots, gradients)
        return found

    def _decode_gradients(self, tensors: Tensors) -> Tensors:
        return self.outbound.decode_gradients(tensors)

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate and the stages for ``epoch`` (from 0)."""
        self.inbound.begin_epoch(epoch, self.job.epochs)
        self.outbound.begin_epoch(epoch, self.job.epochs)
        self.epoch = epoch
        self._set_rate()

    def _set_rate(self, step: int = 0, steps: int = 0) -> None:
        """Set the learning rate of the epoch or, if ``steps`` of all training are given, of ``step``."""
        for group in self._optimizer.param_groups if self._optimizer is not None else ():
            group["lr"] = learning_rate(self.job.optimizer, self.epoch, self.job.epochs, step, steps)

    def _run(self, message: Activation, values: Values, received: _Received) -> TaskMessage:
        moment = Moment(self.job.seed, message.step, message.microbatch)
        with torch.set_grad_enabled(message.train):
            if self._part is not None:
                if missing := set(self._part.inputs) - values.keys():
                    raise ProtocolError(f"missing input values of the node's first layer: {sorted(missing)}")
                if self._part.training != message.train:
                    self._part.train(message.train)
                values = self._compute(values, moment)
            if self.place.last:
                return self._finish(message, values[self._output], received)
            return self._send(message, values, received)

    def _compute(self, values: Values, moment: Moment) -> Values:
        """The part's results, in the job's precision."""
        assert self._part is not None
        casting = torch.autocast(self._device.type, torch.bfloat16) if self._casts else nullcontext()
        with casting:
            made: Values = self._part(values, moment)
        return made

    def _widened(self, computed: torch.Tensor) -> torch.Tensor:
        """``computed`` in float32 if the job computes in bfloat16: the loss and stages do not."""
        return computed.float() if computed.dtype is torch.bfloat16 and self._casts else computed

    def _send(self, message: Activation, values: Values, received: _Received) -> Activation:
        strides: Strides = {}
        tensors, views, scalars = pack(values, strides)
        if type(self.outbound) is not Stage:  # one that computes does so in float32, whatever the job's precision
            tensors = {name: self._widened(tensor) for name, tensor in tensors.items()}
        self.outbound.train(message.train)
        self._seed(message, self.place.outbound, 0)
        self.outbound.labels = message.labels if message.train else None
        codes, loss = self.outbound.compress(tensors)
        sent = self.outbound.encode({name: code.detach() for name, code in codes.items()})
        wire = sendable(sent, self.stays_in_process)
        if type(self.outbound) is Stage:
            codes = codes | returning_views(values, views, strides)
        if message.train:
            metrics = self.outbound.metrics | {"code_bytes": float(sum(tensor.nbytes for tensor in wire.values()))}
            named = {f"link{self.place.outbound}.{name}": value for name, value in metrics.items()}
            self._pending[message.step, message.microbatch] = _Pending(
                received, codes, strides, loss, named, message.save, _steps(message)
            )
        return msgspec.structs.replace(
            message,
            grads=tuple(name for name, code in codes.items() if code.requires_grad),
            views=views,
            scalars=scalars,
            tensors=wire,
        )

    def _finish(self, message: Activation, logits: torch.Tensor, received: _Received) -> Gradient | Result:
        if not message.train:
            return Result(**numbers(message), tensors=sendable({"logits": logits}, self.stays_in_process))
        labels = labels_of(message, self.job.classes).to(self._device)
        taught = taught_of(message, self.job, self._device)
        task, correct = batch_loss(
            self._widened(logits), labels, self.job.label_smoothing, self.inbound.loss_weights, taught
        )
        loss = task / self.job.microbatches
        torch.autograd.backward(loss)
        self._step(message.save, _steps(message))
        late = self.stays_in_process and loss.is_cuda and message.save is None
        scores = [(LateNumber if late else number)(one) for one in (loss, correct)]
        metrics: Any = dict(zip(("count", "loss", "correct"), (float(len(labels)), *scores), strict=True))
        return Gradient(**numbers(message), metrics=metrics, **self._gradients(received))

    def _to_device(self, tensors: Tensors) -> Tensors:
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}

    def _gradients(self, received: _Received) -> dict[str, Any]:
        """The fields of a ``Gradient`` with the gradients of ``received``, encoded."""
        gradients = {name: leaf.grad for name, leaf in received.leaves.items() if leaf.grad is not None}
        tensors = sendable(self.inbound.encode_gradients(gradients), self.stays_in_process)
        return {"tensors": tensors, "strides": received.strides or msgspec.UNSET}

    def _step(self, save: int | None, steps: tuple[int, int] | None = None) -> None:
        self._microbatches_done += 1
        if self._microbatches_done < self.job.microbatches:
            return
        self._microbatches_done = 0
        self.steps += 1
        if self._optimizer is not None:
            if steps is not None:
                self._set_rate(*steps)
            clip_gradients(self._parameters, self.job.optimizer)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        if save is not None:
            if self._optimizer is not None and save in self.job.optimizer.renewed:
                self._optimizer.state.clear()
            if save in self.job.members:
                kept = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
                self._family[1 + self.job.members.index(save)] = kept
            self.save(save)
            self.begin_epoch(save)

    def _chain(self, job: Job, index: int, meta: bool) -> Chain:
        """The job's model; without parameter memory if this node holds no layers."""
        at_end = index == len(job.cuts)
        if meta or (index > 0 and (at_end or job.cuts[index - 1] == job.cuts[index])):
            chain = outline(job.model, job.classes, job.input_shape, dtype=job.input_type)
            if meta or layer_range(job.cuts, index, len(chain)).relays:
                return chain
        model = build_model(job.model, job.classes, job.input_shape, job.seed)
        return Chain(model, job.input_shape, dtype=job.input_type)

    def _hold(self, chain: Chain, held: LayerRange) -> None:
        """Create part ``held`` of ``chain``, its adjacent stages, and their optimizer."""
        self.place = held
        self.names = chain.names[held.start : held.stop]
        self._part: Part | PlainPart | None = None
        if held.start < held.stop:
            alone = len(self.job.nodes) == 1 and self._device.type != "meta"  # nothing is split: plain PyTorch
            self._part = chain.plain() if alone else chain.part(held.start, held.stop)
            self._part.to(self._device).to(memory_format=self._memory_format).train()
        self._arriving = chain.shapes(held.start)
        self.inbound = self._stage(held.inbound, self._arriving)
        check_weighing(self.inbound, self.job, held.inbound, held.last and self.weighs_losses)
        self.outbound = self._stage(held.outbound, chain.shapes(held.stop))
        check_labels(self.outbound, self.job, held.outbound)
        self._optimizer = make_optimizer(list(self._parameters()), self.job.optimizer)

    def _select_member(self, message: Activation) -> None:
        """Compute with the member of ``message``: tensors are swapped, not copied."""
        member = 0 if not self.job.members else message.assignment
        if member == self._member:
            return
        if member and (message.train or member not in self._family):
            raise ProtocolError(f"assignment {member}: no such member of the family")
        if not self._member:
            self._family[0] = {name: tensor.data for name, tensor in self._tensors().items()}
        for name, tensor in self._tensors().items():
            tensor.data = self._family[member][name]
        self._member = member

    def _tensors(self) -> Tensors:
        return {
            f"{part}.{key}": tensor
            for part, module in self._parts().items()
            for key, tensor in module.state_dict(keep_vars=True).items()
        }

    def _stage(self, link: int | None, shapes: Values) -> Stage:
        torch.manual_seed(derive(self.job.seed, STAGE_LAYERS, link or 0))
        return Stage({}) if link is None else build_stage(self.job.stages[link], shapes).to(self._device)

    def _seed(self, message: Activation, link: int | None, side: int) -> None:
        if link is not None:
            layer = (1 if message.train else 2) * STAGE_LAYERS + 2 * link + side
            seed_generators(derive(self.job.seed, message.step, message.microbatch, layer))

    def _parts(self) -> dict[str, nn.Module]:
        held = {"part": self._part, "receiver": self.inbound.receiver, "sender": self.outbound.sender}
        return {name: module for name, module in held.items() if module is not None}

    def _parameters(self) -> Iterator[nn.Parameter]:
        for module in self._parts().values():
            yield from module.parameters()

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name in the model; names of a stage's begin with its half."""
        return {name: tensor.clone() for name, tensor in sendable(self._held()).items()}

    def _held(self) -> Tensors:
        return {
            (key.removeprefix("body.") if name == "part" else f"{name}.{key}"): tensor
            for name, module in self._parts().items()
            for key, tensor in module.state_dict().items()
        }

    def adopt(self, tensors: Tensors) -> None:
        """Continue from ``tensors`` as of ``state``. Raises ProtocolError if they do not fit."""
        held = self._held()
        if odd := held.keys() ^ tensors.keys():
            raise ProtocolError(f"received weights do not fit: {sorted(odd)[:3]} on one side only")
        fitting = {name: checked(name, tensors[name], tensor) for name, tensor in held.items()}
        with torch.no_grad():
            for name, tensor in held.items():
                tensor.copy_(fitting[name])

    def save(self, epoch: int) -> None:
        """Write the checkpoint after ``epoch`` epochs, if the job has checkpoints."""
        write_checkpoint(self.job, self.place.index, epoch, self.everything())

    def everything(self) -> dict[str, Any]:
        """All that ``go_on`` needs."""
        return {
            "modules": {name: module.state_dict() for name, module in self._parts().items()},
            "optimizer": self._optimizer.state_dict() if self._optimizer is not None else {},
            "steps": self.steps,
            "family": {member: tensors for member, tensors in self._family.items() if member},
        }

    def restore(self, epoch: int) -> None:
        """Continue from the checkpoint of ``epoch``. Raises ModelError for another job's.

        Random streams need no state: each draw has its own seed.
        """
        self.go_on(read_checkpoint(self.job, self.place.index, epoch, self._device))
        self.begin_epoch(epoch)

    def go_on(self, saved: dict[str, Any]) -> None:
        """Continue from ``everything`` of a segment of the same node."""
        for name, module in self._parts().items():
            module.load_state_dict(saved["modules"][name])
        if self._optimizer is not None:
            self._optimizer.load_state_dict(saved["optimizer"])
        self.steps, self._family = saved["steps"], saved["family"]


@dataclass(frozen=True)
class Forward(Compute):
    """Run a batch through the node's part."""

    message: Activation
    runs_forward: ClassVar[bool] = True

    def run(self, worker: Segment) -> TaskMessage:
        return worker.forward(self.message)


@dataclass(frozen=True)
class Backward(Compute):
    """Take a gradient back through the node's part."""

    gradient: Gradient

    def run(self, worker: Segment) -> Gradient:
        return worker.backward(self.gradient)


def numbers(message: TaskMessage) -> dict[str, Any]:
    """What identifies the task of ``message``."""
    return {name: getattr(message, name) for name in NUMBERS}


def _steps(message: Activation) -> tuple[int, int] | None:
    return None if message.steps is msgspec.UNSET else (message.step, message.steps)
