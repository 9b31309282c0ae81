"""The state of a node between two training steps: what its segment, its role and the node itself hold."""

from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import nn

from nodes.model.checkpoint import accounts, keep_step, kept_step, write_account
from nodes.runtime.account import Account
from nodes.runtime.actions import Keep
from nodes.spec.job import Job
from nodes.stages.base import Stage
from nodes.training.segment import Segment
from nodes.training.source import Source

OF_MODULES = vars(nn.Module()).keys()
SCALARS = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class KeepStep(Keep):
    """Save the node's state before training step ``step``, with ``progress`` of the role."""

    step: int
    progress: Any = None

    def run(self, worker: Segment | Source) -> None:
        about = {"progress": msgspec.to_builtins(self.progress), "account": msgspec.to_builtins(self.account)}
        for segment in worker.segments if isinstance(worker, Source) else (worker,):
            keep_step(segment.job, segment.place.index, self.step, segment_state(segment) | about)


@dataclass(frozen=True)
class KeepAccount(Keep):
    """Save the node's account when the epoch after ``epoch`` begins."""

    epoch: int

    def run(self, worker: Segment | Source) -> None:
        segment = worker.segment if isinstance(worker, Source) else worker
        write_account(segment.job, segment.place.index, self.epoch, msgspec.json.encode(self.account))


def account_after(job: Job, index: int, epoch: int) -> Account | None:
    """What node ``index`` had done when the epoch after ``epoch`` began; None unless that of every node is known."""
    kept = accounts(job, epoch)
    return None if kept is None else msgspec.json.decode(kept[index], type=Account)


def go_on_before(segment: Segment, step: int) -> tuple[Any, Account]:
    """Give ``segment`` the state before ``step``; the role's progress, and what the node had done."""
    saved = kept_step(segment.job, segment.place.index, step, segment.device)
    load_segment_state(segment, saved)
    return saved["progress"], msgspec.convert(saved["account"], Account)


def segment_state(segment: Segment) -> dict[str, Any]:
    """All that ``segment`` and its stages hold between two training steps."""
    stages = [plain_attributes(stage) for stage in _stages(segment)]
    return segment.everything() | {"epoch": segment.epoch, "stages": stages}


def load_segment_state(segment: Segment, saved: dict[str, Any]) -> None:
    """Go on from the ``segment_state`` of a segment of the same node."""
    segment.go_on(saved)
    segment.begin_epoch(saved["epoch"])
    for stage, attributes in zip(_stages(segment), saved["stages"], strict=True):
        set_attributes(stage, attributes)


def _stages(segment: Segment) -> tuple[Stage, Stage]:
    return segment.inbound, segment.outbound


def plain_attributes(holder: Any) -> dict[str, Any]:
    """Numbers, texts and tensors that ``holder`` has beside its parts, such as what a stage counts within an epoch."""
    return {name: _detached(value) for name, value in vars(holder).items() if name not in OF_MODULES and _plain(value)}


def set_attributes(holder: Any, attributes: dict[str, Any]) -> None:
    """Give ``holder`` its ``plain_attributes`` of before."""
    for name, value in attributes.items():
        _set(holder, name, value)


def _plain(value: Any) -> bool:
    if type(value) is torch.Tensor:
        return not value.is_meta
    if type(value) is dict:
        return all(map(_plain, [*value, *value.values()]))
    return all(map(_plain, value)) if type(value) in (list, tuple) else type(value) in SCALARS


def _detached(value: Any) -> Any:
    if type(value) is torch.Tensor:
        return value.detach()
    if type(value) is dict:
        return {key: _detached(one) for key, one in value.items()}
    return type(value)(map(_detached, value)) if type(value) in (list, tuple) else value


def _set(holder: Any, name: str, value: Any) -> None:
    """Give ``holder`` its attribute; a tensor of the same form in place, as it may be a part's too."""
    held = getattr(holder, name, None)
    if isinstance(held, torch.Tensor) and isinstance(value, torch.Tensor):
        if (held.shape, held.dtype) == (value.shape, value.dtype):
            held.detach().copy_(value)
            return
        value = value.to(held.device)
    setattr(holder, name, value)
