"""Training that breaks off between any two of its messages, and goes on from the states that all nodes have kept."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from oracle import make_job

from nodes.errors import ModelError
from nodes.model.checkpoint import accounts, drop_later_checkpoints, last_checkpoint, last_step
from nodes.model.layer_range import layer_range
from nodes.runtime.account import Account
from nodes.runtime.actions import Send
from nodes.spec.job import DataSpec, Job, KeepSpec, OptimizerSpec, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.keeping.schedule import Keeping
from nodes.training.keeping.state import KeepAccount, KeepStep
from nodes.training.relay import Relay
from nodes.training.report import TrainingOutcome
from nodes.training.segment import Forward, Segment
from nodes.training.source import Source, Train, TrainingSchedule
from nodes.training.ue import Progress, Ue
from nodes.wire.byte_counter import Connection, Traffic
from nodes.wire.messages import Activation, AnyMessage, Begin, Gradient

STEPS = 4  # of each of two epochs; the states before 0, 3 and 6 are kept
SMALL = {
    **{"input_shape": (3, 16, 16), "batch_size": 4, "steps": None, "microbatches": 2},
    "data": DataSpec(train_samples=4 * STEPS, test_samples=6, augment=True),
    "optimizer": OptimizerSpec(lr=0.1, schedule="one_cycle"),
}
TIMES = ("train_s", "test_s")
# Splits, stages and tail; the second node of three relays, the last one is where tasks turn back to the UE.
CUTS = [
    *(((2,), "identity", None), ((2, 2), "identity", None)),
    *(((1, 3), "user_stages:Fading", None), ((1, 1), "identity", 5)),
]


class BrokenError(Exception):
    """Stands for the end of a node."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_job(splits: tuple[int, ...], stage: str = "identity", tail: int | None = None, **changes: Any) -> Job:
    """A network with batch norm."""
    stages = (StageSpec(name=stage),) * (len(splits) + (tail is not None))
    return make_job("user_models:Normed", splits, **SMALL | {"stages": stages, "tail": tail} | changes)


class Interruption:
    """Breaks computation ``at`` of all nodes together; ``reached`` is the last training step that reached all nodes."""

    def __init__(self, at: int | None = None) -> None:
        self.done, self.reached = 0, -1
        self._at = at

    def in_place_of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(worker: Segment | Source, *given: Any, **named: Any) -> Any:
            self.done += 1
            if self.done == self._at:
                raise BrokenError
            return function(worker, *given, **named)

        return call

    def seeing(self, receive: Callable[..., Any]) -> Callable[..., Any]:
        def call(relay: Relay, sender: str, message: AnyMessage, now: float) -> Any:
            if isinstance(message, Activation) and message.train and relay._end:
                self.reached = message.step
            return receive(relay, sender, message, now)

        return call


@contextmanager
def watched_by(interruption: Interruption) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        for place, name in ((Source, "train"), (Source, "test"), (Segment, "forward"), (Segment, "backward")):
            patched.setattr(place, name, interruption.in_place_of(getattr(place, name)))
        patched.setattr(Relay, "receive", interruption.seeing(Relay.receive))
        yield


def measured(outcome: TrainingOutcome, epochs: Sequence[dict[str, float]] = ()) -> Any:
    """All of ``outcome`` and earlier ``epochs``, but times and losses."""
    shown = [{name: epoch[name] for name in epoch if name not in TIMES} for epoch in (*epochs, *outcome.epochs)]
    return shown, [(node.name, node.steps, node.sent) for node in outcome.nodes]


@functools.cache
def undisturbed(splits: tuple[int, ...], stage: str, tail: int | None) -> tuple[TrainingOutcome, int]:
    """The outcome, and the number of computations."""
    counting = Interruption()
    with watched_by(counting):
        outcome = run_in_process(small_job(splits, stage, tail))
    return outcome, counting.done


@settings(max_examples=6)
@given(st.sampled_from(CUTS), st.floats(0, 1))
def test_what_broke_off_anywhere_ends_as_if_it_had_not(cut, share):
    whole, computations = undisturbed(*cut)
    interruption = Interruption(at=1 + int(share * (computations - 1)))
    with TemporaryDirectory() as folder:
        job = replace(small_job(*cut), keep=KeepSpec(folder=folder, every_steps=3))
        reported: list[dict[str, float]] = []
        with watched_by(interruption), pytest.raises(BrokenError):
            run_in_process(job, say=reported.append)
        step = last_step(job)
        assert step == (None if interruption.reached < 0 else interruption.reached // 3 * 3)
        gone_on = run_in_process(job)
        assert len(list(Path(folder).iterdir())) <= 2 * (len(job.cuts) + 1)
    epochs_before = (step or 0) // STEPS
    assert gone_on.losses == whole.losses[epochs_before * STEPS :]
    assert measured(gone_on, reported[:epochs_before]) == measured(whole)


@pytest.mark.promise(
    "Runner and workers",
    "a chain is interrupted and resumed after an epoch",
    "its bytes are those of an undisturbed run",
)
def test_a_job_that_is_resumed_after_an_epoch_has_the_bytes_of_one_that_was_not(tmp_path):
    cut = CUTS[1]
    whole, computations = undisturbed(*cut)
    job = replace(small_job(*cut), checkpoint=str(tmp_path))
    with watched_by(Interruption(at=computations - 2)), pytest.raises(BrokenError):
        run_in_process(job)
    assert last_checkpoint(job, 99) == 2  # which was not reported
    drop_later_checkpoints(job, 1)
    assert accounts(job, 1) is not None
    assert accounts(job, 2) is None
    resumed = run_in_process(job)
    assert measured(resumed, whole.epochs[:1]) == measured(whole)
    assert resumed.losses == whole.losses[STEPS:]


def test_a_network_that_is_cut_has_the_losses_of_the_whole_one():
    assert undisturbed(*CUTS[0])[0].losses == run_in_process(small_job(())).losses  # plain torch


def test_the_state_of_another_job_is_refused(tmp_path):
    job = replace(small_job((2,)), keep=KeepSpec(folder=str(tmp_path)))
    run_in_process(job)
    with pytest.raises(ModelError, match="another job"):
        run_in_process(replace(job, seed=8))


def test_steps_of_sources_that_take_turns_or_with_layers_that_move_are_not_kept():
    for changes in ({"moves": {3: (1,)}}, {"sources": 2, "microbatches": 1}):
        with pytest.raises(ValueError, match="keep"):
            small_job((2,), keep=KeepSpec(folder="kept"), **changes)


# -- decisions


def every(steps: int) -> Keeping:
    return Keeping(small_job((2,), keep=KeepSpec(folder="kept", every_steps=steps)))


def test_the_state_is_kept_before_the_first_step_and_each_so_many():
    kept = every(4)
    assert [step for step in range(6, 18) if kept.before(step, None)] == [6, 8, 12, 16]
    assert not any(Keeping().before(step, step) for step in range(9))


def test_the_account_is_kept_where_an_epoch_begins_and_the_job_has_checkpoints():
    kept = Keeping(small_job((2,), checkpoint="kept"))
    assert [kept.before(step, epoch) for step, epoch in ((3, 1), (4, None))] == [[KeepAccount(1)], []]
    relay = Relay(layer_range((2, 2), 1, 4), False, keeping=kept)
    for message, keep in (
        *((activation(5), []), (replace(activation(6), save=2), []), (replace(activation(6, 1), save=2), [])),
        *((activation(0, train=False), []), (activation(7), [KeepAccount(2)]), (activation(8), [])),
    ):
        assert relay.receive("previous", message, 0.0) == [*keep, Send("next", message)]


def activation(step: int, microbatch: int = 0, train: bool = True) -> Activation:
    return Activation(assignment=0, step=step, microbatch=microbatch, train=train, tensors={})


def test_a_node_keeps_its_state_before_the_first_microbatch_of_a_step_and_a_relay_too():
    node = Relay(layer_range((2,), 1, 4), True, keeping=every(3))
    relay = Relay(layer_range((2, 2), 1, 4), False, keeping=every(3))
    for message, keeps in (
        *((activation(5), True), (activation(5, 1), False), (activation(6), True), (activation(7), False)),
        *((activation(0, train=False), False), (activation(9, 1), False)),
    ):
        keep = [KeepStep(message.step)] if keeps else []
        assert node.receive("previous", message, 0.0) == [*keep, Forward(message)]
        assert relay.receive("previous", message, 0.0) == [*keep, Send("next", message)]


def test_a_ue_goes_on_within_an_epoch_as_if_no_time_had_passed():
    schedule = TrainingSchedule(train_steps=3, test_batches=0, epochs=2, microbatches=1, window=4)

    def back(step: int, loss: float) -> Gradient:
        metrics = {"loss": loss, "correct": 1.0, "count": 4.0}
        return Gradient(assignment=0, step=step, microbatch=0, metrics=metrics, tensors={})

    first = Ue(schedule, alone=False, keeping=every(1))
    assert first.receive("runner", Begin(), 10.0)[0].step == 0
    assert first.computed(back(0, 3.0), 12.0)[0].step == 1
    keep, train = first.computed(back(1, 5.0), 15.0)
    assert (keep.step, train) == (2, Train(0, 2, 0, 1))
    progress = msgspec.json.decode(msgspec.json.encode(keep.progress), type=Progress)
    second = Ue(schedule, alone=False, progress=progress)
    assert second.receive("runner", Begin(), 115.0) == [Train(0, 2, 0, 1)]
    report, train = second.computed(back(2, 4.0), 119.0)
    assert train == Train(1, 0, 0, None)
    assert (report.message.losses.tolist(), report.message.step_s.tolist()) == ([3.0, 5.0, 4.0], [2.0, 3.0, 4.0])
    assert report.message.metrics["train_s"] == 9.0
    assert report.message.metrics["trained_samples"] == 12.0


# -- what a node has done


def test_bytes_of_a_connection_that_was_opened_twice_count_one_handshake():
    def connection(peer: str, opening: int, frames: int, acked: bool) -> Connection:
        written = opening + frames
        return Connection(peer, "bulk", written, written if acked else 0, opening_bytes=opening)

    before = Account(
        compute_s=1.0,
        sent={"next": {"activation": Traffic(2, 20, 200)}},
        connections=[connection("mec", 100, 7000, acked=False)],
        unreported_bytes=50,
    )
    later = Account(
        compute_s=0.5,
        sent={"next": {"activation": Traffic(1, 10, 100), "shutdown": Traffic(1, 5, 0)}, "previous": {}},
        connections=[connection("mec", 100, 3000, acked=True), connection("ue", 90, 10, acked=True)],
        unreported_bytes=7,
    )
    whole = before.before(later)
    assert (whole.compute_s, whole.unreported_bytes, whole.sent_bytes) == (1.5, 57, 335)
    assert whole.sent == {
        "next": {"activation": Traffic(3, 30, 300), "shutdown": Traffic(1, 5, 0)},
        "previous": {},
    }
    mec, ue = whole.connections
    assert (mec.written_bytes, mec.acked_bytes) == (10_100, 10_100)
    assert (ue.written_bytes, ue.acked_bytes) == (100, 100)
