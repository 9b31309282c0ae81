"""Checkpoints of a job: one file per node and epoch in its folder, written atomically.

Beside it stands the node's account, of what it had done when the next epoch began: with tests and their bytes.

Where a job keeps the states of training steps too, each node has the last two of its own in a folder apart.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import msgspec
import torch

from nodes.errors import ModelError, one_line
from nodes.files import replacing
from nodes.model.layer_range import layer_range
from nodes.spec.job import Job, KeepSpec

LATER = ("distillation",)  # fields that older checkpoints do not name, and that are None there


def checkpoint_path(job: Job, index: int, epoch: int) -> Path:
    """The file of node ``index`` after ``epoch`` epochs; the UE's last layers count as one more node."""
    return Path(job.checkpoint or ".") / f"node-{index}-{epoch}.pt"


def drop_later_checkpoints(job: Job, epoch: int) -> None:
    """Delete the checkpoints of epochs after ``epoch``."""
    for index in range(len(job.cuts) + 1):
        for later in _epochs(job, index):
            if later > epoch:
                checkpoint_path(job, index, later).unlink()
                _account_path(job, index, later).unlink(missing_ok=True)


def last_checkpoint(job: Job, layers: int) -> int:
    """The last epoch for which every node that holds layers has a whole checkpoint; 0 if none."""
    if job.checkpoint is None:
        return 0
    holders = [index for index in range(len(job.cuts) + 1) if not layer_range(job.cuts, index, layers).relays]
    epochs = sorted(set.intersection(*(_epochs(job, index) for index in holders)), reverse=True)
    whole = (epoch for epoch in epochs if all(is_whole(checkpoint_path(job, index, epoch)) for index in holders))
    return next(whole, 0)


def torn_checkpoints(job: Job) -> list[Path]:
    """The checkpoints of ``job`` that are not whole."""
    files = (checkpoint_path(job, index, epoch) for index in range(len(job.nodes)) for epoch in _epochs(job, index))
    return sorted(path for path in files if not is_whole(path))


def is_whole(path: Path) -> bool:
    """Whether the file is neither torn nor damaged: a machine that loses power may keep a name without its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        return False


def _epochs(job: Job, index: int) -> set[int]:
    files = checkpoint_path(job, index, 0).parent.glob(f"node-{index}-*.pt") if job.checkpoint else ()
    return {int(path.stem.rpartition("-")[2]) for path in files}


def write_checkpoint(job: Job, index: int, epoch: int, state: dict[str, Any]) -> None:
    """Save ``state`` of node ``index`` after ``epoch`` epochs; delete the checkpoint before the last."""
    if job.checkpoint is None:
        return
    write_state(checkpoint_path(job, index, epoch), {"task": _task(job), **state})
    checkpoint_path(job, index, epoch - 2).unlink(missing_ok=True)


def _account_path(job: Job, index: int, epoch: int) -> Path:
    return checkpoint_path(job, index, epoch).with_suffix(".json")


def write_account(job: Job, index: int, epoch: int, account: bytes) -> None:
    """Save the ``account`` of node ``index`` when the epoch after ``epoch`` began; delete that before the last."""
    path = _account_path(job, index, epoch)
    path.parent.mkdir(parents=True, exist_ok=True)  # a relay has no checkpoint
    with replacing(path) as file:
        file.write(account)
    _account_path(job, index, epoch - 2).unlink(missing_ok=True)


def accounts(job: Job, epoch: int) -> list[bytes] | None:
    """The accounts of all nodes from when the epoch after ``epoch`` began; None if one is missing."""
    try:
        return [_account_path(job, index, epoch).read_bytes() for index in range(len(job.nodes))]
    except OSError:
        return None


def last_step(job: Job) -> int | None:
    """The last training step, counted over all epochs, before which every node has kept its state; None without."""
    if job.keep is None:
        return None
    nodes = range(len(job.cuts) + 1)
    steps = sorted(set.intersection(*(_kept_steps(job.keep, index) for index in nodes)), reverse=True)
    whole = (step for step in steps if all(is_whole(_kept_path(job.keep, index, step)) for index in nodes))
    return next(whole, None)


def _kept_path(keep: KeepSpec, index: int, step: int) -> Path:
    return Path(keep.folder) / f"step-{index}-{step}.pt"


def _kept_steps(keep: KeepSpec, index: int) -> set[int]:
    return {int(path.stem.rpartition("-")[2]) for path in Path(keep.folder).glob(f"step-{index}-*.pt")}


def keep_step(job: Job, index: int, step: int, state: dict[str, Any]) -> None:
    """Keep ``state`` of node ``index`` before training step ``step``, and of those kept earlier the last."""
    if job.keep is None:
        return
    write_state(_kept_path(job.keep, index, step), {"task": _task(job), **state}, durable=False)
    for earlier in sorted(_kept_steps(job.keep, index) - {step})[:-1]:
        _kept_path(job.keep, index, earlier).unlink()


def kept_step(job: Job, index: int, step: int, device: torch.device) -> dict[str, Any]:
    """The state given to ``keep_step``. Raises ModelError if another job kept it."""
    assert job.keep is not None
    return _read(_kept_path(job.keep, index, step), job, device)


def write_state(path: Path, state: dict[str, Any], durable: bool = True) -> None:
    """Write ``state`` to ``path`` atomically; not ``durable``: it outlives processes, and not a loss of power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable) as file:
        torch.save(state, file)


def read_checkpoint(job: Job, index: int, epoch: int, device: torch.device) -> dict[str, Any]:
    """The state given to ``write_checkpoint``. Raises ModelError if another job saved it."""
    return _read(checkpoint_path(job, index, epoch), job, device)


def _read(path: Path, job: Job, device: torch.device) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        task = saved["task"]
    except Exception as error:  # whatever stands in the file
        raise ModelError(f"{path}: is no checkpoint of a node: {one_line(error)}") from None
    if task != _task(job):
        raise ModelError(f"{path} belongs to another job; give each job its own checkpoint folder")
    return saved


def _task(job: Job) -> str:
    """The fields of ``job`` that determine training, as JSON; its length and where it runs are left out."""
    same = msgspec.structs.replace(
        job, checkpoint=None, keep=None, device="cpu", threads=None, window=1, payload_bytes=0
    )
    if job.optimizer.schedule == "constant":
        same = msgspec.structs.replace(same, epochs=0)
    fields = msgspec.to_builtins(same)
    told = {name: value for name, value in fields.items() if name not in LATER or value is not None}
    return msgspec.json.encode(told).decode()
