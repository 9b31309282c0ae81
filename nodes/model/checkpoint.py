"""Where is a node's training kept? One file a node and epoch, whole or not there, in the job's folder."""

from pathlib import Path
from typing import Any

import msgspec
import torch

from nodes.errors import ModelError, one_line
from nodes.files import replacing
from nodes.model.layer_range import layer_range
from nodes.spec.job import Job


def checkpoint_path(job: Job, index: int, epoch: int) -> Path:
    """Where node ``index`` saves its state after ``epoch`` epochs."""
    return Path(job.checkpoint or ".") / f"node-{index}-{epoch}.pt"


def drop_later_checkpoints(job: Job, epoch: int) -> None:
    """Forget what was saved after more than ``epoch`` epochs."""
    for index in range(len(job.nodes)):
        for later in _epochs(job, index):
            if later > epoch:
                checkpoint_path(job, index, later).unlink()


def last_checkpoint(job: Job, layers: int) -> int:
    """The last epoch whose state every node that computes has saved; 0 if none."""
    if job.checkpoint is None:
        return 0
    epochs = [
        _epochs(job, index) for index in range(len(job.nodes)) if not layer_range(job.splits, index, layers).relays
    ]
    return max(set.intersection(*epochs), default=0)


def _epochs(job: Job, index: int) -> set[int]:
    folder = checkpoint_path(job, index, 0).parent
    return (
        {int(path.stem.rpartition("-")[2]) for path in folder.glob(f"node-{index}-*.pt")} if job.checkpoint else set()
    )


def write_checkpoint(job: Job, index: int, epoch: int, state: dict[str, Any]) -> None:
    """Save ``state`` of node ``index`` after ``epoch`` epochs, atomically; the one before last is removed."""
    if job.checkpoint is None:
        return
    write_state(checkpoint_path(job, index, epoch), {"task": _task(job), **state})
    checkpoint_path(job, index, epoch - 2).unlink(missing_ok=True)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        torch.save(state, file)


def read_checkpoint(job: Job, index: int, epoch: int, device: torch.device) -> dict[str, Any]:
    """What ``write_checkpoint`` saved. Raises ModelError if it is of another job."""
    path = checkpoint_path(job, index, epoch)
    saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if saved["task"] != _task(job):
        raise ModelError(f"{path} is of another job; use a checkpoint folder of its own for each")
    return saved


def read_weights(path: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name, as ``torch.save`` writes a state dict. Raises ModelError for anything else."""
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever stands in the file
        raise ModelError(f"weights {path} cannot be read: {one_line(error)}") from None
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ModelError(f"weights {path}: expected tensors by name")
    return found


def _task(job: Job) -> str:
    """What of ``job`` decides how training goes on; how long it is to last and how it is run do not."""
    same = msgspec.structs.replace(job, checkpoint=None, device="cpu", threads=None, window=1, payload_bytes=0)
    if job.optimizer.schedule == "constant":
        same = msgspec.structs.replace(same, epochs=0)
    return msgspec.json.encode(same).decode()
