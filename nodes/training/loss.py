"""The loss of a batch where the model ends, and the teacher of a distilled network, which is at the UE.

A teacher is the unsplit network; its logits cross with the labels.
"""

from contextlib import nullcontext
from typing import NamedTuple

import msgspec
import torch
from torch.nn import functional as F

from nodes.errors import ModelError, ProtocolError
from nodes.model.factory import build_model
from nodes.model.weights import fit_weights
from nodes.spec.job import DistillationSpec, Job
from nodes.stages.base import Stage
from nodes.wire.messages import Activation


class Teacher:
    """The network of ``job`` with the weights that ``spec`` names; it learns nothing.

    Raises ModelError if these leave a part of the network as it was drawn.
    """

    def __init__(self, job: Job, spec: DistillationSpec, device: torch.device) -> None:
        self._device, self._casts = device, job.precision == "bfloat16"
        self.classes = job.classes
        if device.type == "meta":
            return
        model = build_model(job.model, job.classes, job.input_shape, job.seed)
        fit = fit_weights(spec.teacher, model.state_dict())
        if not fit.complete:
            raise ModelError(f"teacher: {fit}; give the weights of the whole network")
        model.load_state_dict(fit.tensors, strict=False)
        layout = torch.channels_last if job.memory_format == "channels_last" else torch.preserve_format
        self._model = model.to(device).to(memory_format=layout).eval()

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """The logits (N, classes) of ``pictures``, in float32."""
        if self._device.type == "meta":
            return torch.empty(len(pictures), self.classes, device="meta")
        casting = torch.autocast(self._device.type, torch.bfloat16) if self._casts else nullcontext()
        with torch.no_grad(), casting:
            logits: torch.Tensor = self._model(pictures)
        return logits.float()


class Taught(NamedTuple):
    """The ``logits`` (N, classes) of a batch's teacher, and how its answers count (``DistillationSpec``)."""

    logits: torch.Tensor
    temperature: float
    weight: float

    def mixed(self, losses: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """``losses`` (M,) of labels mixed with the divergence of ``logits`` (M, classes), of N samples each time."""
        student, teacher = (F.log_softmax(one / self.temperature, 1) for one in (logits, self.logits))
        teacher = teacher.repeat(len(student) // len(teacher), 1)
        divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
        return (1 - self.weight) * losses + self.weight * self.temperature**2 * divergence


def batch_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
    weights: torch.Tensor | None = None,
    taught: Taught | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean cross-entropy of a batch, and how many of its answers are right.

    Args:
        logits: (N, classes), or those of a batch that a stage restored several times, one after the other.
        labels: (N,).
        smoothing: Share of the target that is spread over all classes.
        weights: ``Stage.loss_weights``, (M,) as ``logits``, in place of the mean.
        taught: What a teacher makes of the batch, if the loss counts that too.

    Raises:
        ProtocolError: Labels of another number than the logits.
    """
    if len(labels) != len(logits) and (weights is None or len(labels) == 0 or len(logits) % len(labels)):
        raise ProtocolError(f"labels: got {len(labels)}, expected {len(logits)} as of the logits")
    if weights is None and taught is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing), (logits.argmax(1) == labels).sum()
    repeated = labels.repeat(len(logits) // len(labels))
    losses = F.cross_entropy(logits, repeated, reduction="none", label_smoothing=smoothing)
    if taught is not None:
        losses = taught.mixed(losses, logits)
    correct = logits.argmax(1) == repeated
    if weights is None:
        return losses.mean(), correct.sum()
    return weights @ losses, len(labels) * (weights.detach() @ correct.to(weights.dtype))


def labels_of(message: Activation, classes: int) -> torch.Tensor:
    """The labels (N,) of ``message``. Raises ProtocolError unless they are numbers of ``classes``."""
    labels = message.labels
    if labels is None:
        raise ProtocolError(f"step {message.step} came without labels")
    if labels.dtype is not torch.int64 or labels.ndim != 1 or not len(labels):
        raise ProtocolError(f"labels: got {labels.dtype} {list(labels.shape)}, expected torch.int64 (N,)")
    if labels.device.type == "cpu":  # those of another device never left this process
        least, largest = (int(one) for one in torch.aminmax(labels))
        if least < 0 or largest >= classes:
            raise ProtocolError(f"labels: got {least} to {largest}, expected 0 to {classes - 1}")
    return labels


def taught_of(message: Activation, job: Job, device: torch.device) -> Taught | None:
    """What the teacher of ``job`` made of ``message``, if it has one. Raises ProtocolError unless that came."""
    spec, logits = job.distillation, message.teacher
    if spec is None:
        return None
    if logits is msgspec.UNSET or message.labels is None:
        raise ProtocolError(f"step {message.step} came without the teacher's logits")
    if logits.dtype is not torch.float32 or logits.shape != (len(message.labels), job.classes):
        expected = f"torch.float32 {[len(message.labels), job.classes]}"
        raise ProtocolError(f"teacher's logits: got {logits.dtype} {list(logits.shape)}, expected {expected}")
    return Taught(logits.to(device), spec.temperature, spec.weight)


def check_weighing(stage: Stage, job: Job, link: int | None, ends: bool) -> None:
    """Raise ModelError if ``stage``, that of ``link``, weighs losses and its receiver is none that ``ends`` a chain."""
    if stage.weighs_losses and not ends:
        name = job.stages[link or 0].name
        words = "weighs the losses of its samples; only a chain's node with the last layer can receive that"
        raise ModelError(f"stage {name}: {words}")


def check_labels(stage: Stage, job: Job, link: int | None) -> None:
    """Raise ModelError if ``stage``, that of ``link``, needs labels, which stay with the last layers of ``job``."""
    if stage.needs_labels and job.tail is not None:
        raise ModelError(f"stage {job.stages[link or 0].name}: needs labels, which do not cross in a U-shaped split")
