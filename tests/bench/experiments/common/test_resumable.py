"""Training that goes on from whatever a kill or a loss of power has left of its files."""

import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bench.experiments.common import resumable as module
from bench.experiments.common.resumable import resumable
from nodes.spec.job import Job, StageSpec
from nodes.training.report import TrainingOutcome

EPOCHS: list[dict[str, float]] = [{"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "loss": 1.0}, {"epoch": 3.0, "loss": 0.5}]
TORN = {
    "nothing": (lambda text: text, 2),
    "the last line": (lambda text: text[:-30], 1),
    "the first line": (lambda text: bytes(20) + text[20:], 0),
    "a line in the middle": (lambda text: text[:40] + bytes(20) + text[60:], 1),
    "all": (lambda text: bytes(len(text)), 0),
}


@pytest.mark.parametrize("what", TORN)
@pytest.mark.promise(
    "Files",
    "`epochs.jsonl` or `outcome.json` is torn",
    "a line names the file; epochs before the torn line count, the others are trained again",
)
def test_reports_of_epochs_count_up_to_the_first_that_is_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    about = {"model": "small_cnn", "input_shape": (3, 16, 16), "classes": 10, "nodes": ("ue", "mec"), "epochs": 3}
    job = Job(**about, splits=(3,), stages=(StageSpec(),))  # type: ignore[arg-type]  # of many types
    monkeypatch.setattr(module, "last_checkpoint", lambda *_: 9)  # checkpoints are all there
    trained: list[int] = []

    def run(job: Job, keep: Any) -> TrainingOutcome:
        done = len((tmp_path / "epochs.jsonl").read_bytes().splitlines())
        trained.append(done)
        for epoch in EPOCHS[done:]:
            keep(epoch)
        return TrainingOutcome(dataset="digits", epochs=EPOCHS[done:], losses=[], step_s=[], nodes=[])

    assert resumable(job, 5, tmp_path, run, lambda _: None).epochs == EPOCHS
    tear, kept = TORN[what]
    (tmp_path / "epochs.jsonl").write_bytes(tear((tmp_path / "epochs.jsonl").read_bytes()))
    (tmp_path / "outcome.json").write_bytes((tmp_path / "outcome.json").read_bytes()[:-5])  # torn as well
    assert resumable(job, 5, tmp_path, run, lambda _: None).epochs == EPOCHS
    assert trained == [0, kept]
    torn = [f"{tmp_path / 'epochs.jsonl'} is torn: training goes on after epoch {kept}"]
    assert caplog.messages == (torn if what != "nothing" else [])
    assert resumable(job, 5, tmp_path, run, lambda _: None).epochs == EPOCHS  # now it is whole
    assert trained == [0, kept]


def test_a_torn_checkpoint_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where it costs an epoch: as the last is trained again anyway, its checkpoint may be missing."""
    about = {"model": "small_cnn", "input_shape": (3, 16, 16), "classes": 10, "nodes": ("ue", "mec"), "epochs": 4}
    job = Job(**about, splits=(3,), stages=(StageSpec(),))  # type: ignore[arg-type]  # of many types
    (tmp_path / "epochs.jsonl").write_bytes(b"".join(json.dumps(epoch).encode() + b"\n" for epoch in EPOCHS))
    (tmp_path / "checkpoints").mkdir()
    for index, epoch in itertools.product((0, 1), (2, 3)):
        with zipfile.ZipFile(tmp_path / "checkpoints" / f"node-{index}-{epoch}.pt", "w") as archive:
            archive.writestr("data", b"weights")
    torn = tmp_path / "checkpoints" / "node-1-3.pt"
    torn.write_bytes(torn.read_bytes()[:-9])

    def run(job: Job, keep: Any) -> TrainingOutcome:
        return TrainingOutcome(dataset="digits", epochs=EPOCHS[2:], losses=[], step_s=[], nodes=[])

    assert resumable(job, 5, tmp_path, run, lambda _: None).earlier == 2
    assert caplog.messages == [f"{torn} is torn: training goes on after epoch 2"]
