"""The loss of a batch where the model ends."""

import torch
from torch.nn import functional as F

from nodes.errors import ModelError, ProtocolError
from nodes.spec.job import Job
from nodes.stages.base import Stage
from nodes.wire.messages import Activation


def batch_loss(
    logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean cross-entropy of a batch, and how many of its answers are right.

    Args:
        logits: (N, classes), or those of a batch that a stage restored several times, one after the other.
        labels: (N,).
        smoothing: Share of the target that is spread over all classes.
        weights: ``Stage.loss_weights``, (M,) as ``logits``, in place of the mean.

    Raises:
        ProtocolError: Labels of another number than the logits.
    """
    if len(labels) != len(logits) and (weights is None or len(labels) == 0 or len(logits) % len(labels)):
        raise ProtocolError(f"labels: got {len(labels)}, expected {len(logits)} as of the logits")
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing), (logits.argmax(1) == labels).sum()
    repeated = labels.repeat(len(weights) // len(labels))
    losses = F.cross_entropy(logits, repeated, reduction="none", label_smoothing=smoothing)
    right = weights.detach() @ (logits.argmax(1) == repeated).to(weights.dtype)
    return weights @ losses, len(labels) * right


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


def check_weighing(stage: Stage, job: Job, link: int | None, ends: bool) -> None:
    """Raise ModelError if ``stage``, that of ``link``, weighs losses and its receiver is none that ``ends`` a chain."""
    if stage.weighs_losses and not ends:
        name = job.stages[link or 0].name
        words = "weighs the losses of its samples; only a chain's node with the last layer can receive that"
        raise ModelError(f"stage {name}: {words}")
