"""A run that was cut off and taken up again ends as if it had not been; what a kill leaves does no harm."""

import itertools
import os
import resource
from pathlib import Path

import oracle
import pytest
import torch
from msgspec.structs import replace
from promises import see

from nodes.errors import ModelError
from nodes.model.checkpoint import checkpoint_path, last_checkpoint
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.segment import Segment

LAYERS = 7


def make_job(folder: Path, **changes) -> Job:
    settings = {
        **{
            "input_shape": (3, 16, 16),
            "nodes": ("ue", "relay", "ue-2", "cloud"),
            "epochs": 5,
            "steps": None,
            "seed": 0,
        },
        "stages": (StageSpec(), StageSpec(name="user_stages:Bottleneck"), StageSpec(name="int8")),
        "data": DataSpec(train_samples=40, test_samples=16, augment=True),
        "optimizer": OptimizerSpec(lr=0.05, schedule="cosine"),
        "checkpoint": str(folder),
    }
    return oracle.make_job("user_models:Plain", (2, 2, 5), **settings | changes)


class Killed(Exception):  # noqa: N818  (no error of ours)
    pass


def run_until(job: Job, epoch: int) -> None:
    def say(metrics):
        if metrics["epoch"] == epoch:
            raise Killed

    with pytest.raises(Killed):
        run_in_process(job, say=say)


def saved(job: Job, index: int, epoch: int):
    return torch.load(checkpoint_path(job, index, epoch), weights_only=True)


def assert_same(one, other):
    """Nested dicts and lists with tensors, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("whole"))
    return job, run_in_process(job)


def assert_ends_like(whole, job: Job, since: int) -> None:
    """Taken up after ``since`` epochs, ``job`` ends as the whole run: losses, parameters, momentum."""
    whole_job, expected = whole
    outcome = run_in_process(job)
    per_epoch = len(expected.losses) // whole_job.epochs
    assert outcome.losses == expected.losses[since * per_epoch :]
    times = ("train_s", "test_s")
    for one, other in zip(outcome.epochs, expected.epochs[since:], strict=True):
        assert {k: v for k, v in one.items() if k not in times} == {k: v for k, v in other.items() if k not in times}
    for index in (0, 2, 3):
        assert_same(saved(job, index, 5), saved(whole_job, index, 5))


@pytest.mark.parametrize(
    ("epoch", "damage", "last"),
    [
        (1, lambda job: None, 1),
        (3, lambda job: None, 3),
        (4, lambda job: None, 4),
        (3, lambda job: checkpoint_path(job, 2, 3).unlink(), 2),  # the third node was killed before it had saved
        (2, lambda job: half_written(job, 3), 2),
        (3, lambda job: os.truncate(checkpoint_path(job, 2, 3), 900), 2),
        (3, lambda job: zeroed(checkpoint_path(job, 0, 3)), 2),
    ],
    ids=["one", "three", "four", "nodes that fell at different epochs", "files half written", "one torn", "one zeroed"],
)
@pytest.mark.promise(
    "Files", "a checkpoint is cut short, zeroed or missing", "training goes on from the one before, and ends equal"
)
def test_a_run_cut_off_after_an_epoch_ends_like_one_that_was_not(whole, tmp_path, epoch, damage, last):
    job = make_job(tmp_path)
    run_until(job, epoch)
    damage(job)
    assert last_checkpoint(job, LAYERS) == last
    assert_ends_like(whole, job, since=last)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def half_written(job: Job, epoch: int) -> None:
    for index in range(4):
        Path(job.checkpoint, f".node-{index}-{epoch}.pt.partial").write_bytes(b"half of it")


@pytest.mark.promise(
    "Files", "a node is killed as it saves its checkpoint", "training goes on from the one before, and ends equal"
)
def test_a_kill_in_the_middle_of_a_save_leaves_the_epoch_before(whole, tmp_path, monkeypatch):
    job = make_job(tmp_path)
    saves, sync = itertools.count(1), os.fsync

    def killed(file: int) -> None:
        if next(saves) == 6:  # three nodes save: this is the last to save the second epoch
            raise Killed
        sync(file)

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(Killed):
        run_in_process(job)
    monkeypatch.undo()
    assert last_checkpoint(job, LAYERS) == 1
    assert_ends_like(whole, job, since=1)


@pytest.mark.promise(
    "Files",
    "the disk is full as a node saves its checkpoint (RLIMIT_FSIZE)",
    "the error names the file; training goes on from the checkpoint before, and ends equal",
)
def test_a_disk_that_is_full_at_a_save_leaves_the_epoch_before(whole, tmp_path):
    job = make_job(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics):
        if metrics["epoch"] == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))

    with pytest.raises(OSError, match="node-") as raised:
        run_in_process(job, say=fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    see(f"{raised.value.strerror}: {Path(raised.value.filename).name}")
    assert last_checkpoint(job, LAYERS) in (1, 2)
    assert_ends_like(whole, job, since=last_checkpoint(job, LAYERS))


def test_a_node_that_saved_more_than_the_others_does_not_decide(tmp_path):
    job = make_job(tmp_path)
    assert last_checkpoint(job, LAYERS) == 0
    run_until(job, 1)
    checkpoint_path(job, 0, 4).write_bytes(b"")
    assert last_checkpoint(job, LAYERS) == 1
    for index in (2, 3):
        checkpoint_path(job, index, 1).unlink()
    assert last_checkpoint(job, LAYERS) == 0


def test_the_last_two_epochs_are_kept_with_momentum_a_relay_saves_its_account_and_a_finished_run_stays(whole):
    names = sorted(path.name for path in Path(whole[0].checkpoint).iterdir())
    states = [f"node-{index}-{epoch}.pt" for index in (0, 2, 3) for epoch in (4, 5)]
    assert names == sorted([*states, *(f"node-{index}-{epoch}.json" for index in range(4) for epoch in (3, 4))])
    state = saved(whole[0], 0, 5)["optimizer"]["state"]
    assert state
    assert all(entry["momentum_buffer"].abs().sum() > 0 for entry in state.values())
    assert run_in_process(whole[0]).epochs == []


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"splits": (2, 2, 3)}, {"batch_size": 4}, {"optimizer": OptimizerSpec(lr=0.01)}]
)
def test_another_jobs_checkpoint_is_refused(whole, changes):
    with pytest.raises(ModelError, match="another job"):
        run_in_process(replace(whole[0], **changes))


def test_how_a_job_is_run_may_change_and_a_constant_schedule_go_on(tmp_path):
    job = make_job(tmp_path, optimizer=OptimizerSpec(lr=0.05), epochs=1)
    run_in_process(job)
    longer = replace(job, epochs=2, threads=2, window=1, payload_bytes=1 << 20)
    assert len(run_in_process(longer).epochs) == 1


def test_without_a_folder_nothing_is_saved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_in_process(make_job(tmp_path, checkpoint=None, epochs=2))
    assert list(tmp_path.iterdir()) == []


def test_a_job_begins_with_the_weights_that_fit_it(tmp_path):
    whole = replace(make_job(tmp_path), nodes=("all",), splits=(), stages=(), seed=9)
    given = Segment(whole, 0).state()
    torch.save(given | {"head.bias": torch.zeros(3), "nobody": torch.zeros(1)}, tmp_path / "weights.pt")
    job = make_job(tmp_path, weights=str(tmp_path / "weights.pt"))
    fresh = make_job(tmp_path)
    for index in (0, 2, 3):
        before = Segment(fresh, index).state()
        for name, tensor in Segment(job, index).state().items():
            kept = name == "head.bias" or name.startswith(("sender.", "receiver."))
            assert torch.equal(tensor, before[name] if kept else given[name]), name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no zip", "cannot be read"),
        ([1, 2], "fits no tensor of the model; the file has none"),
        ({"other": torch.zeros(2)}, "fits no tensor of the model; the file has other"),
    ],
)
def test_weights_that_are_none_are_one_error(content, words, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=words):
        Segment(make_job(tmp_path, weights=str(path)), 0)
