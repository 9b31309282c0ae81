"""Training that a killed run resumes: nodes save a checkpoint each epoch, this module the reports of epochs."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench import events
from nodes.files import append, replacing
from nodes.model.checkpoint import accounts, drop_later_checkpoints, last_checkpoint, torn_checkpoints
from nodes.spec.job import Job
from nodes.training.report import ReportEpoch, TrainingOutcome

logger = logging.getLogger(__name__)

T = TypeVar("T")
Run = Callable[[Job, ReportEpoch], TrainingOutcome]


def resumable(job: Job, layers: int, folder: Path, run: Run, say: ReportEpoch) -> TrainingOutcome:
    """The outcome of ``run`` on ``job``, whose model has ``layers``; resumes from what ``folder`` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    finished, journal = folder / "outcome.json", folder / "epochs.jsonl"
    with suppress(OSError, ValueError):  # none, or one that is torn: the last epoch is run again
        return _decoded(finished.read_bytes(), TrainingOutcome)
    if job.epochs > 1:
        job = msgspec.structs.replace(job, checkpoint=str(folder / "checkpoints"))
    whole = _reported(journal)
    reported = whole[: job.epochs - 1]  # without an outcome the last epoch is run again
    drop_later_checkpoints(job, len(reported))  # an epoch whose report is missing is trained again
    earlier = reported[: last_checkpoint(job, layers)]
    torn = torn_checkpoints(job) if len(earlier) < len(reported) else []
    for path in [*([journal] if journal.exists() and _lines(journal) > len(whole) else []), *torn]:
        logger.warning("%s is torn: training goes on after epoch %d", path, len(earlier))
    with replacing(journal) as file:
        file.writelines(_encoded(epoch) + b"\n" for epoch in earlier)

    def keep(metrics: dict[str, float]) -> None:
        append(journal, _encoded(metrics) + b"\n")
        say(metrics)
        curve = {name: metrics[name] for name in ("loss", "train_accuracy", "test_accuracy") if name in metrics}
        events.emit("learned", curve=f"{folder.name}, {len(job.nodes)} nodes", at_epoch=metrics["epoch"], **curve)

    counted = not earlier or accounts(job, len(earlier)) is not None
    outcome = run(job, keep)
    outcome.epochs, outcome.earlier, outcome.counted = earlier + outcome.epochs, len(earlier), counted
    with replacing(finished) as file:
        file.write(_encoded(outcome))
    return outcome


def resumable_until(
    job: Job, layers: int, folder: Path, run: Run, say: ReportEpoch, *, ends: Callable[[TrainingOutcome], bool]
) -> TrainingOutcome:
    """Train as ``resumable``, epoch by epoch at a constant learning rate, until ``ends`` or ``job.epochs``."""
    job = msgspec.structs.replace(job, checkpoint=str(folder / "checkpoints"))
    epochs = min(job.epochs, 1 + last_checkpoint(job, layers))
    while True:
        outcome = resumable(msgspec.structs.replace(job, epochs=epochs), layers, folder, run, say)
        if len(outcome.epochs) >= job.epochs or ends(outcome):
            return outcome
        epochs = len(outcome.epochs) + 1
        (folder / "outcome.json").unlink()


def _lines(journal: Path) -> int:
    return len(journal.read_bytes().splitlines())


def _reported(journal: Path) -> list[dict[str, float]]:
    """The epochs of ``journal`` up to the first line that a kill or a loss of power left incomplete."""
    epochs: list[dict[str, float]] = []
    with suppress(OSError, ValueError):
        whole, _, _ = journal.read_bytes().rpartition(b"\n")
        for line in whole.split(b"\n"):
            epochs.append(_decoded(line, dict[str, float]))
    return epochs


def _encoded(value: Any) -> bytes:
    """JSON with numbers that need not be finite, since training may diverge."""
    return json.dumps(msgspec.to_builtins(value)).encode()


def _decoded(data: bytes, kind: type[T]) -> T:
    return msgspec.convert(json.loads(data), kind)
